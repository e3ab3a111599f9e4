_base_ = 'ce_fashion_mnist.py'

model = dict(head=dict(loss=dict(type='BootstrapLoss', beta=0.8, hard=True)))
