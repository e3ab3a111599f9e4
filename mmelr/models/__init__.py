"""MMPretrain models that train with ELR and ELR+: thin shells over the core."""

from .baseline_losses import BackwardLoss, BootstrapLoss, ForwardLoss, GCELoss, SCELoss, TruncatedGCELoss
from .co_training import CoTrainingClassifier
from .distributed import CoTrainingDistributedDataParallel
from .elr_head import ELRHead
from .in_memory_preprocessor import InMemoryPreprocessor
from .mixup import ELRMixup
from .preact_resnet import PreActResNet

__all__ = [
    'BackwardLoss', 'BootstrapLoss', 'CoTrainingClassifier', 'CoTrainingDistributedDataParallel', 'ELRHead', 'ELRMixup',
    'ForwardLoss', 'GCELoss', 'InMemoryPreprocessor', 'PreActResNet', 'SCELoss', 'TruncatedGCELoss',
]  # fmt: skip
