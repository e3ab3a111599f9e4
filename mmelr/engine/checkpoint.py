"""Checkpoints of MMEngine, loaded on a torch that refuses unknown classes (2.6 and later)."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import torch
from mmengine.logging import HistoryBuffer

from ..serialization import numpy_safe_globals

_STATISTICS = ('min', 'max', 'mean', 'current')


def _statistic_of_history_buffer(owner: type, name: str) -> Callable:
    """Stands in for ``getattr``, by which a pickled ``HistoryBuffer`` names its four statistics, and does only that."""
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) in a checkpoint is refused.')
    return getattr(HistoryBuffer, name)


# MMEngine calls torch.load without weights_only, which then defaults to True and refuses MMEngine's own log buffers.
# Allowing these few harmless things by name keeps loading safe, where weights_only=False would run any pickle.
torch.serialization.add_safe_globals(
    [HistoryBuffer, (_statistic_of_history_buffer, 'builtins.getattr'), *numpy_safe_globals()]
)
