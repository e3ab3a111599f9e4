# CIFAR-100N: labels by people (Wei et al., ICLR 2022).
_base_ = 'ce_cifar100_sym.py'

train_dataloader = dict(
    dataset=dict(
        noise=dict(_delete_=True, type='LabelFile', path='data/cifar100/CIFAR-100_human.pt', key='noisy_label')))
val_dataloader = dict(
    dataset=dict(
        noise=dict(_delete_=True, type='LabelFile', path='data/cifar100/CIFAR-100_human.pt', key='noisy_label')))
