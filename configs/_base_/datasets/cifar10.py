# CIFAR-10 as in the paper: the first 45,000 noisy training images train, the last 5,000, as noisy, are for model
# selection (val), the clean test set is for tools/test.py. tools/train.py --noise changes the noise of both parts. MMPretrain downloads the data to data/cifar10.
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

data_preprocessor = dict(
    type='InMemoryPreprocessor', num_classes=10, mean=[125.31, 122.95, 113.87], std=[51.59, 50.85, 51.26])

train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='NoisyLabelDataset',
        dataset=dict(
            type='InMemoryDataset', base='CIFAR10',
            data_root='data/cifar10', split='train', indices=45000,
            pipeline=train_pipeline),
        noise=dict(type='SymmetricNoise', rate=0.4, seed=0)))

val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='NoisyLabelDataset',
        dataset=dict(
            type='InMemoryDataset', base='CIFAR10',
            data_root='data/cifar10', split='train', indices=-5000,
            pipeline=test_pipeline),
        noise=dict(type='SymmetricNoise', rate=0.4, seed=0)))
val_evaluator = dict(type='Accuracy', topk=(1, ))

test_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='InMemoryDataset', base='CIFAR10',
        data_root='data/cifar10', split='test', test_mode=True,
        pipeline=test_pipeline))
test_evaluator = dict(type='Accuracy', topk=(1, ))
