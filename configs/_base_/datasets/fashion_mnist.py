# Fashion-MNIST: 60,000 images of 28x28 to train, 10,000 to test. tools/prepare_fashion_mnist.py puts them into
# data/fashion_mnist. The crop only pads: 28 + 2 * 2 = 32, at the same place in training and in testing.
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='RandomCrop', crop_size=32, padding=2), dict(type='PackInputs')]

data_preprocessor = dict(type='InMemoryPreprocessor', num_classes=10, mean=[72.94], std=[90.02])

train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='NoisyLabelDataset',
        dataset=dict(
            type='InMemoryDataset', base='FashionMNIST',
            data_root='data/fashion_mnist', split='train',
            pipeline=train_pipeline),
        noise=dict(type='SymmetricNoise', rate=0.4, seed=0)))

# MMPretrain's FashionMNIST heeds test_mode, not split.
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='InMemoryDataset', base='FashionMNIST',
        data_root='data/fashion_mnist', split='test', test_mode=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
