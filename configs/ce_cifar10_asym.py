# truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog
_base_ = 'ce_cifar10_sym.py'

noise = dict(_delete_=True, type='AsymmetricNoise', rate=0.4, mapping='cifar10', seed=0)
train_dataloader = dict(dataset=dict(noise=noise))
val_dataloader = dict(dataset=dict(noise=noise))
