"""MMPretrain models that train with ELR: thin shells over the core."""

from .elr_head import ELRHead

__all__ = ['ELRHead']
