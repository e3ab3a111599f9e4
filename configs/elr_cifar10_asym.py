_base_ = 'ce_cifar10_asym.py'

model = dict(head=dict(type='ELRHead', beta=0.9, lam=1.0))
