_base_ = [
    '_base_/models/resnet34_cifar.py', '_base_/datasets/cifar10.py', '_base_/schedules/elr_cifar10.py',
    '_base_/default_runtime.py'
]
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
