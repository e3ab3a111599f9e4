# Mini WebVision (the Google images of the first 50 classes) in its official layout. Validated on WebVision's own validation
# set; tools/test.py tests on ImageNet's, the same classes. The resize leaves the 256-pixel version of the data as it is.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='RandomCrop', crop_size=227),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow'),
    dict(type='CenterCrop', crop_size=227),
    dict(type='PackInputs'),
]

data_preprocessor = dict(
    type='ClsDataPreprocessor',
    num_classes=50,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True)

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='NoisyLabelDataset',
        dataset=dict(type='MiniWebVision', data_root='data/webvision', split='train', pipeline=train_pipeline),
        noise=None))

val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='MiniWebVision', data_root='data/webvision', split='val', test_mode=True, pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, 5))

test_dataloader = dict(
    batch_size=64,
    num_workers=8,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ImageNet50', data_root='data/imagenet', test_mode=True, pipeline=test_pipeline))
test_evaluator = val_evaluator
