# Fashion-MNIST with the network and schedule of the paper's CIFAR-10 experiments; for a GPU.
_base_ = [
    '_base_/models/resnet34_cifar.py', '_base_/datasets/fashion_mnist.py', '_base_/schedules/elr_cifar10.py',
    '_base_/default_runtime.py'
]
model = dict(backbone=dict(in_channels=1))
