# CIFAR-100N: labels by people (Wei et al., ICLR 2022). Not in the
# ELR paper: the hyperparameters are those of its symmetric noise.
_base_ = 'elr_plus_cifar100_sym.py'

train_dataloader = dict(
    dataset=dict(
        noise=dict(_delete_=True, type='LabelFile', path='data/cifar100/CIFAR-100_human.pt', key='noisy_label')))
val_dataloader = dict(
    dataset=dict(
        noise=dict(_delete_=True, type='LabelFile', path='data/cifar100/CIFAR-100_human.pt', key='noisy_label')))
