# The ResNet-34 of the paper's CIFAR experiments: 3x3 stem, no max pooling.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=34),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512))
