_base_ = [
    '_base_/models/inception_resnet_v2_webvision.py', '_base_/datasets/webvision.py', '_base_/schedules/webvision.py',
    '_base_/default_runtime.py'
]
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
