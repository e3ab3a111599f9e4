_base_ = 'ce_fashion_mnist.py'

model = dict(head=dict(loss=dict(type='SCELoss', alpha=0.1, beta=1.0, log_zero=-4.0)))
