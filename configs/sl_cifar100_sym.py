_base_ = 'ce_cifar100_sym.py'

model = dict(head=dict(loss=dict(type='SCELoss', alpha=6.0, beta=0.1, log_zero=-4.0)))
