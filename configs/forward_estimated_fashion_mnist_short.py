_base_ = 'ce_fashion_mnist_short.py'

model = dict(head=dict(loss=dict(type='ForwardLoss', num_classes=10)))
custom_hooks = [*_base_.custom_hooks, dict(type='TransitionHook', source='estimated', warm_up=6)]
