# The published 40 and 10 epochs are of 120; here a run has 40.
_base_ = 'ce_fashion_mnist_12800.py'

model = dict(head=dict(loss=dict(type='TruncatedGCELoss', q=0.7, k=0.5)))
custom_hooks = [*_base_.custom_hooks, dict(type='TruncationHook', start=13, interval=3)]
