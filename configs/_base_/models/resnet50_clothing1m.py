# ResNet-50 with torchvision's ImageNet weights, which are downloaded once. Without internet access put a file's path for
# torchvision://resnet50. The linear layer keeps PyTorch's initialisation, as in the published code.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ResNet',
        depth=50,
        num_stages=4,
        out_indices=(3, ),
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=14, in_channels=2048, init_cfg=None))
