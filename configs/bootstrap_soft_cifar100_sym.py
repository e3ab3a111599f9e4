_base_ = 'ce_cifar100_sym.py'

model = dict(head=dict(loss=dict(type='BootstrapLoss', beta=0.95, hard=False)))
