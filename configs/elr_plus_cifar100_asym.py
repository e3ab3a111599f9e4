# Each class to the next of its block of five consecutive labels, as in the published code. These blocks are not
# CIFAR-100's superclasses; mapping='cifar100' flips within those.
_base_ = 'elr_plus_cifar100_sym.py'

train_dataloader = dict(
    dataset=dict(noise=dict(_delete_=True, type='AsymmetricNoise', rate=0.4, mapping='cifar100_blocks', seed=0)))
val_dataloader = dict(
    dataset=dict(noise=dict(_delete_=True, type='AsymmetricNoise', rate=0.4, mapping='cifar100_blocks', seed=0)))
