# ELR*: ELR with cosine annealing and warm restarts.
_base_ = 'elr_cifar10_sym.py'

param_scheduler = dict(
    _delete_=True, type='CosineRestartLR', by_epoch=True, periods=[10] * 15, restart_weights=[1] * 15, eta_min=0.001)
train_cfg = dict(max_epochs=150)
