# ELR+ as published for CIFAR: two PreActResNet-18, each taught by the other's weight average, with mixup. The linear layer
# keeps PyTorch's initialisation, as there. The cells of the paper's ablation are a change of one line: num_networks=1,
# teacher='network' (no weight averages), mixup=None.
model = dict(
    type='CoTrainingClassifier',
    network=dict(
        type='ImageClassifier',
        backbone=dict(type='PreActResNet', depth=18),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='ELRHead', num_classes=10, in_channels=512, init_cfg=None, beta=0.7, lam=3.0)),
    num_networks=2,
    teacher='average',
    mixup=dict(type='ELRMixup', alpha=1.0))
