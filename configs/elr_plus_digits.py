# ELR+: two networks, each taught by the other's weight average, with mixup. The cells of the paper's ablation are a change
# of one line: num_networks=1, teacher='network' (no weight averages), mixup=None; e.g. --cfg-options model.mixup=None
_base_ = 'elr_digits.py'

model = dict(
    _delete_=True,
    type='CoTrainingClassifier',
    network=_base_.model,
    num_networks=2,
    teacher='average',
    mixup=dict(type='ELRMixup', alpha=1.0))
# As in the published code for CIFAR-10, gamma is ramped over the first half of the 1,150 steps.
custom_hooks = [*_base_.custom_hooks, dict(type='ELREMAHook', gamma=0.997, ramp_up=600)]
train_cfg = dict(_delete_=True, type='CoTrainingRunner', max_epochs=50, val_interval=1)
val_evaluator = dict(_delete_=True, type='MemberEvaluator', metrics=_base_.val_evaluator)
test_evaluator = val_evaluator
