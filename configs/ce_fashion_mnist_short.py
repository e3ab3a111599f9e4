# All of Fashion-MNIST on a short budget, for a whole table of methods in minutes on a GPU: a ResNet-18 of a quarter of
# the usual width, 30 epochs of batches of 512, the learning rate four times as large as for 128.
_base_ = 'ce_fashion_mnist.py'

model = dict(backbone=dict(depth=18, stem_channels=16, base_channels=16), head=dict(in_channels=128))
train_dataloader = dict(batch_size=512)
optim_wrapper = dict(optimizer=dict(lr=0.08))
param_scheduler = dict(milestones=[15, 25], gamma=0.1)
train_cfg = dict(max_epochs=30)
