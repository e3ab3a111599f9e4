_base_ = 'ce_cifar100_sym.py'

model = dict(head=dict(type='ELRHead', beta=0.9, lam=7.0))
