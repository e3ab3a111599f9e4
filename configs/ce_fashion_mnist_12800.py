# Fashion-MNIST for two CPU cores: the first 12,800 training images, a ResNet-18 of a quarter of the width, 40 epochs.
_base_ = 'ce_fashion_mnist.py'

model = dict(backbone=dict(depth=18, stem_channels=16, base_channels=16), head=dict(in_channels=128))
train_dataloader = dict(dataset=dict(dataset=dict(indices=12800)))
param_scheduler = dict(milestones=[20, 32], gamma=0.1)
train_cfg = dict(max_epochs=40)
