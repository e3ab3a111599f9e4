_base_ = [
    '_base_/models/resnet34_cifar.py', '_base_/datasets/cifar100.py', '_base_/schedules/elr_cifar100.py',
    '_base_/default_runtime.py'
]
model = dict(head=dict(num_classes=100))
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
