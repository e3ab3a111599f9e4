# scikit-learn's handwritten digits: 1,438 images of 8x8 to train, 359 to test. No augmentation, so that
# memorisation shows clearly.
pipeline = [dict(type='PackInputs')]

data_preprocessor = dict(type='InMemoryPreprocessor', num_classes=10, mean=[77.8], std=[95.9])

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='NoisyLabelDataset',
        dataset=dict(type='InMemoryDataset', base='Digits', split='train', pipeline=pipeline),
        noise=dict(type='SymmetricNoise', rate=0.4, seed=0)))

val_dataloader = dict(
    batch_size=359,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='InMemoryDataset', base='Digits', split='test', pipeline=pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
