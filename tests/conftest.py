"""What every test needs: MMPretrain as the default scope, a quiet MMEngine, fixed random numbers."""

import gc
import logging
import random

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

import mmelr  # noqa: F401  registers its parts in MMPretrain


@pytest.fixture(autouse=True, scope='session')
def small_garbage():
    """MMEngine collects garbage whenever a dataset loads, half a second for all that is imported: leave that out."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def mmpretrain_scope():
    """As in a run of MMPretrain, so that MMEngine's own wrappers find MMPretrain's datasets; restored afterwards."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(autouse=True)
def quiet_mmengine():
    """Only errors: a test that is about a warning asks for it."""
    logger = MMLogger.get_current_instance()
    levels = [(handler, handler.level) for handler in logger.handlers]
    for handler, _ in levels:
        handler.setLevel(logging.ERROR)
    yield
    for handler, level in levels:
        handler.setLevel(level)


@pytest.fixture(autouse=True)
def fixed_seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
