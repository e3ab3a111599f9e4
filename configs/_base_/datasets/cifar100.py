# CIFAR-100, split as CIFAR-10 is.
_base_ = 'cifar10.py'

data_preprocessor = dict(num_classes=100, mean=[129.30, 124.07, 112.43], std=[68.17, 65.39, 70.42])
train_dataloader = dict(dataset=dict(dataset=dict(base='CIFAR100', data_root='data/cifar100')))
val_dataloader = dict(dataset=dict(dataset=dict(base='CIFAR100', data_root='data/cifar100')))
test_dataloader = dict(dataset=dict(base='CIFAR100', data_root='data/cifar100'))
