"""mmelr: train image classifiers on noisy labels with Early-Learning Regularization.

The core (``functional``, ``TargetMemory``, ``ELRLoss`` and the other losses, ``noise``) needs torch and NumPy alone.
Where MMPretrain is installed, importing mmelr also registers its datasets, heads and hooks there.
"""

import warnings as _warnings

from . import functional, noise
from .losses import (
    BackwardLoss,
    BootstrapLoss,
    ELRLoss,
    ForwardLoss,
    GCELoss,
    SCELoss,
    TruncatedGCELoss,
    estimate_transition,
)
from .memory import TargetMemory
from .stack import require_openmmlab, stack_problem
from .version import __version__

__all__ = [
    'BackwardLoss', 'BootstrapLoss', 'ELRLoss', 'ForwardLoss', 'GCELoss', 'SCELoss', 'TargetMemory', 'TruncatedGCELoss',
    '__version__', 'estimate_transition', 'functional', 'noise', 'require_openmmlab',
]  # fmt: skip

if stack_problem() is None:
    # mmcv-lite says at every import that it has no compiled operators; classification needs none.
    _warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')
    from . import datasets, engine, models, registry  # noqa: F401
    from .analysis.audit import audit_labels  # noqa: F401
    from .apis import METHODS, apply_method, load_config  # noqa: F401

    __all__ += ['METHODS', 'apply_method', 'audit_labels', 'load_config']
else:
    stack_problem(warn=True)


def __getattr__(name: str):
    if name in ('METHODS', 'apply_method', 'audit_labels', 'load_config'):
        require_openmmlab()
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
