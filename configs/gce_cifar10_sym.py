_base_ = 'ce_cifar10_sym.py'

model = dict(head=dict(loss=dict(type='GCELoss', q=0.7)))
