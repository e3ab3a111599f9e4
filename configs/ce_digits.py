_base_ = [
    '_base_/models/resnet18_digits.py', '_base_/datasets/digits.py', '_base_/schedules/digits.py',
    '_base_/default_runtime.py'
]
