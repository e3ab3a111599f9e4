# ELR*: ELR with cosine annealing and warm restarts.
_base_ = 'elr_fashion_mnist.py'

param_scheduler = dict(
    _delete_=True,
    type='CosineRestartLR',
    by_epoch=True,
    periods=[10] * 12,
    restart_weights=[1] * 12,
    eta_min_ratio=0.05)
