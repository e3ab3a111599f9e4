# ELR+ on mini WebVision with the published hyperparameters.
_base_ = 'elr_webvision.py'

model = dict(
    _delete_=True,
    type='CoTrainingClassifier',
    network=_base_.model,
    num_networks=2,
    teacher='average',
    mixup=dict(type='ELRMixup', alpha=1.5))
custom_hooks = [*_base_.custom_hooks, dict(type='ELREMAHook', gamma=0.997, bias_correction=True)]
train_cfg = dict(_delete_=True, type='CoTrainingRunner', max_epochs=100, val_interval=1)
val_evaluator = dict(_delete_=True, type='MemberEvaluator', metrics=_base_.val_evaluator)
test_evaluator = val_evaluator
