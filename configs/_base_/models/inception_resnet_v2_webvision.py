# InceptionResNetV2 through timm (pip install timm), from scratch; it and the linear layer keep PyTorch's initialisation.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='TIMMBackbone', model_name='inception_resnet_v2', pretrained=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=50, in_channels=1536, init_cfg=None))
