# ELR+ on Clothing1M with the published hyperparameters; docs/clothing1m.md goes from the download to the result.
_base_ = 'elr_clothing1m.py'

model = dict(
    _delete_=True,
    type='CoTrainingClassifier',
    network=_base_.model,
    num_networks=2,
    teacher='average',
    mixup=dict(type='ELRMixup', alpha=1.0))
custom_hooks = [*_base_.custom_hooks, dict(type='ELREMAHook', gamma=0.9999, bias_correction=True)]
train_cfg = dict(_delete_=True, type='CoTrainingRunner', max_epochs=15, val_interval=1)
val_evaluator = dict(_delete_=True, type='MemberEvaluator', metrics=_base_.val_evaluator)
test_evaluator = val_evaluator
