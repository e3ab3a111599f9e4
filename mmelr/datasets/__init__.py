"""Datasets: noisy labels over any MMPretrain dataset, and datasets that MMPretrain lacks."""

from .digits import Digits
from .noisy_label import NoisyLabelDataset

__all__ = ['Digits', 'NoisyLabelDataset']
