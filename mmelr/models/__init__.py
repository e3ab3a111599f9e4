"""MMPretrain models that train with ELR and ELR+: thin shells over the core."""

from .co_training import CoTrainingClassifier
from .distributed import CoTrainingDistributedDataParallel
from .elr_head import ELRHead
from .in_memory_preprocessor import InMemoryPreprocessor
from .mixup import ELRMixup
from .preact_resnet import PreActResNet

__all__ = [
    'CoTrainingClassifier',
    'CoTrainingDistributedDataParallel',
    'ELRHead',
    'ELRMixup',
    'InMemoryPreprocessor',
    'PreActResNet',
]
