# truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog
_base_ = 'ce_cifar10_sym.py'

train_dataloader = dict(
    dataset=dict(noise=dict(_delete_=True, type='AsymmetricNoise', rate=0.4, mapping='cifar10', seed=0)))
val_dataloader = dict(
    dataset=dict(noise=dict(_delete_=True, type='AsymmetricNoise', rate=0.4, mapping='cifar10', seed=0)))
