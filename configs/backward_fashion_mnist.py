_base_ = 'ce_fashion_mnist.py'

model = dict(head=dict(loss=dict(type='BackwardLoss', num_classes=10)))
custom_hooks = [*_base_.custom_hooks, dict(type='TransitionHook', source='known')]
