"""Checkpoints of MMEngine, loaded on a torch that refuses unknown classes (2.6 and later)."""

import torch
from mmengine.logging import HistoryBuffer

from ..serialization import numpy_safe_globals

# MMEngine calls torch.load without weights_only, which then defaults to True and refuses MMEngine's own log buffers.
# Allowing these few harmless classes by name keeps loading safe, where weights_only=False would run any pickle.
torch.serialization.add_safe_globals([HistoryBuffer, *numpy_safe_globals()])
