"""``ExactResumeHook``: a resumed run continues as if it had never stopped."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.datasets import RepeatAugSampler
from mmpretrain.registry import HOOKS

from .utils import noisy_dataset

__all__ = ['ExactResumeHook']


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes each epoch's random numbers a function of the run's seed and the epoch.

    MMEngine restores weights, optimizer, schedulers and counters, but no random state, and the state of data workers is
    out of any checkpoint's reach. So nothing is saved here: at the start of an epoch dropout, batch augments
    and all else in the main process are seeded from (seed, epoch), and each item's augmentation from (seed, epoch,
    item), whichever worker loads it. An epoch after a resume then equals the same epoch of a run in one go, bit
    for bit where the operations are deterministic (on a CPU they are), with any number of workers.

    Where ``CoTrainingRunner`` has a pass over the data for each network, passes are counted instead of epochs, and a
    checkpoint written between two of them resumes there.

    It acts on epoch-based training. An iteration-based loop has no such boundary and keeps MMEngine's behaviour.
    Repeated augmentation (``RepeatAugSampler``) needs several draws of an item in one epoch, so there
    augmentation keeps the workers' own random state.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """As :meth:`before_train_pass`: for most loops an epoch is one pass."""
        self.before_train_pass(runner)

    def before_train_pass(self, runner: Runner) -> None:
        """Tell the sampler the seed and the data workers the pass, before they begin to load it."""
        if not self._epoch_based(runner):
            return
        sampler = runner.train_dataloader.sampler
        given = (runner.cfg.get('train_dataloader') or {}).get('sampler') or {}
        own_seed = isinstance(given, dict) and given.get('seed') is not None
        if hasattr(sampler, 'seed') and not own_seed and not runner._randomness_cfg.get('diff_rank_seed'):
            # A resumed run takes its seed from the checkpoint only after the sampler was built with another.
            sampler.seed = runner.seed
        dataset = noisy_dataset(runner)
        if dataset is not None and not isinstance(sampler, RepeatAugSampler):
            dataset.set_augmentation_epoch(runner.seed, self._data_pass(runner))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Seed the main process in the first step: starting the data workers draws random numbers before."""
        if batch_idx > 0 or not self._epoch_based(runner):
            return
        rank = get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0
        a, b, c = np.random.SeedSequence((runner.seed, self._data_pass(runner), rank)).generate_state(3)
        random.seed(int(a))
        np.random.seed(b)
        torch.manual_seed(int(c))

    @staticmethod
    def _data_pass(runner: Runner) -> int:
        return getattr(runner.train_loop, 'data_pass', runner.epoch)

    @staticmethod
    def _epoch_based(runner: Runner) -> bool:
        return isinstance(runner.train_loop, EpochBasedTrainLoop)
