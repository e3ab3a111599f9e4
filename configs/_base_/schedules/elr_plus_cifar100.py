# The published schedule of ELR+ for CIFAR-100: 250 epochs of each network, x0.1 at 200; batch 128.
_base_ = 'elr_plus_cifar10.py'
param_scheduler = dict(milestones=[200])
train_cfg = dict(max_epochs=250)
