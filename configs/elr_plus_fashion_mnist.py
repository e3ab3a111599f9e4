# For a GPU. The network and schedule are those of ELR here, so that the two can be compared.
_base_ = 'elr_fashion_mnist.py'

model = dict(
    _delete_=True,
    type='CoTrainingClassifier',
    network=_base_.model,
    num_networks=2,
    teacher='average',
    mixup=dict(type='ELRMixup', alpha=1.0))
# As in the published code for CIFAR-10, gamma is ramped over the first half of the 56,280 steps.
custom_hooks = [*_base_.custom_hooks, dict(type='ELREMAHook', gamma=0.997, ramp_up=28000)]
train_cfg = dict(_delete_=True, type='CoTrainingRunner', max_epochs=120, val_interval=1)
val_evaluator = dict(_delete_=True, type='MemberEvaluator', metrics=_base_.val_evaluator)
test_evaluator = val_evaluator
