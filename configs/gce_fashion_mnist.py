_base_ = 'ce_fashion_mnist.py'

model = dict(head=dict(loss=dict(type='GCELoss', q=0.7)))
