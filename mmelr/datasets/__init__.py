"""Datasets: noisy labels over any MMPretrain dataset, and datasets that MMPretrain lacks."""

from .class_balanced_sampler import ClassBalancedSampler
from .clothing1m import Clothing1M
from .digits import Digits
from .in_memory import InMemoryDataset
from .noisy_label import NoisyLabelDataset
from .webvision import ImageNet50, MiniWebVision

__all__ = [
    'ClassBalancedSampler',
    'Clothing1M',
    'Digits',
    'ImageNet50',
    'InMemoryDataset',
    'MiniWebVision',
    'NoisyLabelDataset',
]
