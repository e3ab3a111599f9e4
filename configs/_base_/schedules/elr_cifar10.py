# The published schedule for CIFAR-10: 120 epochs, x0.01 at 40 and at 80; batch 128.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-3))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[40, 80], gamma=0.01)
train_cfg = dict(by_epoch=True, max_epochs=120, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
