# MMPretrain's He initialisation (fan-out) makes larger weights than PyTorch's default; under BatchNorm that acts like
# a smaller learning rate, so 0.1 rather than 0.02.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[25, 37], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=50, val_interval=1)
val_cfg = dict()
test_cfg = dict()
