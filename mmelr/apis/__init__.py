"""One-call entry points: a config becomes one that trains by another method, on other noise."""

from .loading import load_config
from .switch import METHODS, apply_method

__all__ = ['METHODS', 'apply_method', 'load_config']
