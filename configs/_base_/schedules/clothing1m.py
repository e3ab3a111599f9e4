# The published schedule for Clothing1M: 15 epochs of 3,000 batches of 64, x0.1 at 7.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.002, momentum=0.9, weight_decay=1e-3))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[7], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
