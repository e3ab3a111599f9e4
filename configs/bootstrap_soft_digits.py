_base_ = 'ce_digits.py'

model = dict(head=dict(loss=dict(type='BootstrapLoss', beta=0.95, hard=False)))
