"""Is the OpenMMLab stack there, and new enough? Found out without importing it."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

__all__ = ['require_openmmlab', 'stack_problem']

# Module: the oldest version that will do, and the distributions that provide the module.
_NEEDED = {
    'mmengine': ('0.10.0', ('mmengine', 'onedl-mmengine')),
    'mmcv': ('2.0.0', ('mmcv-lite', 'mmcv', 'onedl-mmcv')),
    'torchvision': ('0.15.0', ('torchvision',)),
    'mmpretrain': ('1.2.0', ('mmpretrain', 'onedl-mmpretrain')),
}
_OLDEST_TORCH = '2.6.0'  # the first whose safe loading can be told of further classes by name
_MEND = (
    "pip install 'mmelr[lite]' installs what is needed, with mmcv-lite. If you use the full mmcv, keep it: install "
    "'mmelr[openmmlab]', which brings no mmcv."
)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split('+')[0].split('.')[:3]:
        digits = ''.join(c for c in part if c.isdigit())
        numbers.append(int(digits or 0))
    return tuple(numbers)


def _installed(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def stack_problem(warn: bool = False) -> str | None:
    """What keeps mmelr's MMPretrain parts from working.

    Args:
        warn (bool): Warn of it when some of the stack is there, so that somebody may want the rest.

    Returns:
        str | None: What is missing or too old, and the mend; None if all is well.
    """
    if _numbers(torch.__version__) < _numbers(_OLDEST_TORCH):
        raise ImportError(f'mmelr needs torch >= {_OLDEST_TORCH}, this is {torch.__version__}: pip install -U torch.')
    missing = [name for name in _NEEDED if find_spec(name) is None]
    old = []
    for name, (oldest, distributions) in _NEEDED.items():
        found = _installed(distributions)
        if name not in missing and found is not None and _numbers(found) < _numbers(oldest):
            old.append(f'{name} >= {oldest} (this is {found})')
    if not missing and not old:
        return None
    problem = (
        "mmelr's MMPretrain parts need "
        + ' and '.join([f'{", ".join(missing)}, not installed'] * bool(missing) + [', '.join(old)] * bool(old))
        + f'. {_MEND}'
    )
    if warn and find_spec('mmpretrain') is not None:
        warnings.warn(problem + ' ELRLoss and the rest of the core work without.', stacklevel=3)
    return problem


def require_openmmlab() -> None:
    """Raise if the OpenMMLab stack is not there.

    Raises:
        ImportError: Names what is missing or too old, and the mend.
    """
    problem = stack_problem()
    if problem is not None:
        raise ImportError(problem)
