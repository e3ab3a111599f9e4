# truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog
_base_ = 'elr_plus_cifar10_sym.py'

model = dict(network=dict(head=dict(beta=0.9, lam=1.0)))
train_dataloader = dict(
    dataset=dict(noise=dict(_delete_=True, type='AsymmetricNoise', rate=0.4, mapping='cifar10', seed=0)))
val_dataloader = dict(
    dataset=dict(noise=dict(_delete_=True, type='AsymmetricNoise', rate=0.4, mapping='cifar10', seed=0)))
