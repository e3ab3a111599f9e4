"""Losses for any PyTorch training loop: ELR, and what it is compared with. Each is a function and a thin module."""

from .bootstrap import BootstrapLoss, bootstrap_loss
from .checks import check_labels
from .correction import BackwardLoss, ForwardLoss, backward_loss, estimate_transition, forward_loss
from .elr import ELRLoss, check_hyperparameters
from .gce import GCELoss, TruncatedGCELoss, gce_loss
from .sce import SCELoss, sce_loss

__all__ = [
    'BackwardLoss', 'BootstrapLoss', 'ELRLoss', 'ForwardLoss', 'GCELoss', 'SCELoss', 'TruncatedGCELoss',
    'backward_loss', 'bootstrap_loss', 'check_hyperparameters', 'check_labels', 'estimate_transition', 'forward_loss',
    'gce_loss', 'sce_loss',
]  # fmt: skip
