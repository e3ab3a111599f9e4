_base_ = [
    '_base_/models/elr_plus_preact_resnet18_cifar.py', '_base_/datasets/cifar100.py',
    '_base_/schedules/elr_plus_cifar100.py', '_base_/default_runtime.py'
]
# The two extras of the published code for CIFAR-100: lambda is ramped, and mixed labels are weighted by the targets.
model = dict(
    network=dict(head=dict(num_classes=100, beta=0.9, lam=7.0)), lam_ramp_up=40000, reweight_labels=True)
custom_hooks = [*_base_.custom_hooks, dict(type='ELREMAHook', gamma=0.997, ramp_up=40000)]
val_evaluator = dict(_delete_=True, type='MemberEvaluator', metrics=_base_.val_evaluator)
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
