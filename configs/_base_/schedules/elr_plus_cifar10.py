# The published schedule of ELR+ for CIFAR-10: 200 epochs of each network, x0.1 at 150; batch 128.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[150], gamma=0.1)
train_cfg = dict(type='CoTrainingRunner', max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
