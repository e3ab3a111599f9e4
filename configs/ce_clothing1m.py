_base_ = [
    '_base_/models/resnet50_clothing1m.py', '_base_/datasets/clothing1m.py', '_base_/schedules/clothing1m.py',
    '_base_/default_runtime.py'
]
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
