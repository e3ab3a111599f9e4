# CIFAR-10N: labels by people (Wei et al., ICLR 2022). Other sets: aggre_label, random_label1, random_label2, random_label3. Not in the
# ELR paper: the hyperparameters are those of its symmetric noise.
_base_ = 'elr_plus_cifar10_sym.py'

train_dataloader = dict(
    dataset=dict(
        noise=dict(_delete_=True, type='LabelFile', path='data/cifar10/CIFAR-10_human.pt', key='worse_label')))
val_dataloader = dict(
    dataset=dict(
        noise=dict(_delete_=True, type='LabelFile', path='data/cifar10/CIFAR-10_human.pt', key='worse_label')))
