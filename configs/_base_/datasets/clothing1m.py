# Clothing1M in its official layout, see docs/clothing1m.md. Of the million noisy labels each epoch sees 3,000 batches of 64,
# drawn anew with as many of each class. Validation and test sets have labels by people.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='RandomCrop', crop_size=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

data_preprocessor = dict(
    type='ClsDataPreprocessor',
    num_classes=14,
    mean=[177.45, 166.69, 162.46],
    std=[79.38, 81.40, 81.96],
    to_rgb=True)

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='ClassBalancedSampler', num_samples=192000),
    dataset=dict(
        type='NoisyLabelDataset',
        dataset=dict(type='Clothing1M', data_root='data/clothing1m', split='train', pipeline=train_pipeline),
        noise=None))

val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='Clothing1M', data_root='data/clothing1m', split='val', test_mode=True, pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, ))

test_dataloader = dict(
    batch_size=128,
    num_workers=8,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='Clothing1M', data_root='data/clothing1m', split='test', test_mode=True, pipeline=test_pipeline))
test_evaluator = val_evaluator
