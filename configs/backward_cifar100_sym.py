_base_ = 'ce_cifar100_sym.py'

model = dict(head=dict(loss=dict(type='BackwardLoss', num_classes=100)))
custom_hooks = [*_base_.custom_hooks, dict(type='TransitionHook', source='known')]
