_base_ = 'ce_cifar10_sym.py'

model = dict(head=dict(loss=dict(type='TruncatedGCELoss', q=0.7, k=0.5)))
custom_hooks = [*_base_.custom_hooks, dict(type='TruncationHook', start=40, interval=10)]
