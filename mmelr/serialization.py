"""Reading torch files that hold NumPy data, without executing anything that they contain."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1.x
    from numpy.core import multiarray

_NUMBER_DTYPES = (
    'bool',
    'int8',
    'int16',
    'int32',
    'int64',
    'uint8',
    'uint16',
    'uint32',
    'uint64',
    'float16',
    'float32',
    'float64',
)


def numpy_safe_globals() -> list[tuple[Any, str]]:
    """The pieces that pickled arrays and scalars of numbers are made of, each with its name.

    NumPy 2 moved ``numpy.core`` to ``numpy._core``, and a pickle spells the path that its writer
    had; CIFAR-10N and CIFAR-100N, for example, were written by an old NumPy. Each piece is
    therefore listed under both names, whatever NumPy runs now. Data types of objects, strings and
    records are left out: neither labels nor checkpoints need them.

    Returns:
        list[tuple[Any, str]]: Pairs of object and dotted name, as
        :func:`torch.serialization.add_safe_globals` takes them (torch 2.6 or later).
    """
    # An array without elements is pickled with bytes(), others with a literal.
    pieces = [(np.ndarray, 'numpy.ndarray'), (np.dtype, 'numpy.dtype'), (bytes, 'builtins.bytes')]
    for package in ('numpy.core', 'numpy._core'):
        for name in ('_reconstruct', 'scalar'):
            pieces.append((getattr(multiarray, name), f'{package}.multiarray.{name}'))
    for name in _NUMBER_DTYPES:
        # A dtype restores its byte order through __setstate__, which torch allows only for
        # types on the list. These classes are never named in a pickle, so any name will do.
        dtype_class = type(np.dtype(name))
        pieces.append((dtype_class, f'numpy.dtypes.{dtype_class.__name__}'))
    return pieces


def safe_load(path: str | os.PathLike) -> Any:
    """Loads a ``torch.save`` file of tensors, NumPy arrays and plain Python values, on the CPU.

    Args:
        path (str | os.PathLike): The file, in torch's zip format or in the older one.

    Returns:
        Any: What was saved.

    Raises:
        pickle.UnpicklingError: If the file holds anything else. Nothing of it has been run then.
    """
    # torch's context manager takes its names off the list when it ends, even those that were on
    # it before. Names that someone registered for good, for checkpoints say, must survive this.
    known = torch.serialization.get_safe_globals()
    missing = [piece for piece in numpy_safe_globals() if piece not in known]
    with torch.serialization.safe_globals(missing):
        return torch.load(path, map_location='cpu', weights_only=True)
