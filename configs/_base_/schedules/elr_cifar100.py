# The published schedule for CIFAR-100: 150 epochs, x0.01 at 80 and at 120; batch 128.
_base_ = 'elr_cifar10.py'
param_scheduler = dict(milestones=[80, 120])
train_cfg = dict(max_epochs=150)
