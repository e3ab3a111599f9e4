_base_ = 'ce_digits.py'

model = dict(head=dict(loss=dict(type='GCELoss', q=0.7)))
