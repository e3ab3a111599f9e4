# Fashion-MNIST for minutes on one CPU core: the first 4,000 training images, a ResNet-18 of an eighth of the usual width
# that starts by halving the image, 25 epochs. A batch of 64 and lr 0.1 make up for the few images.
_base_ = 'ce_fashion_mnist.py'

model = dict(
    backbone=dict(depth=18, stem_channels=8, base_channels=8, strides=(2, 2, 2, 2)), head=dict(in_channels=64))
train_dataloader = dict(batch_size=64, dataset=dict(dataset=dict(indices=4000)))
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = dict(milestones=[12, 18], gamma=0.1)
train_cfg = dict(max_epochs=25)
