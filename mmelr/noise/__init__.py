"""Label noise: labels in, labels out. Seeded, saveable and verifiable, with NumPy alone."""

from .label_file import LabelFile
from .mappings import get_mapping
from .record import NoiseRecord, transition_matrix
from .spec import parse_noise
from .synthetic import AsymmetricNoise, InstanceNoise, SymmetricNoise, TransitionNoise

__all__ = [
    'AsymmetricNoise',
    'InstanceNoise',
    'LabelFile',
    'NoiseRecord',
    'SymmetricNoise',
    'TransitionNoise',
    'get_mapping',
    'parse_noise',
    'transition_matrix',
]
