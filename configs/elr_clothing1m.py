_base_ = 'ce_clothing1m.py'

model = dict(head=dict(type='ELRHead', beta=0.7, lam=3.0))
