_base_ = [
    '_base_/models/elr_plus_preact_resnet18_cifar.py', '_base_/datasets/cifar10.py', '_base_/schedules/elr_plus_cifar10.py',
    '_base_/default_runtime.py'
]
custom_hooks = [*_base_.custom_hooks, dict(type='ELREMAHook', gamma=0.997, ramp_up=40000)]
val_evaluator = dict(_delete_=True, type='MemberEvaluator', metrics=_base_.val_evaluator)
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
