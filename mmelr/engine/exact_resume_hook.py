"""``ExactResumeHook``: a resumed run continues as if it had never stopped."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.datasets import RepeatAugSampler
from mmpretrain.registry import HOOKS
from torch.utils.data import BatchSampler, Sampler

from .noise_record_hook import ResumeRefused
from .utils import noisy_dataset

__all__ = ['ExactResumeHook', 'kept_random_state']


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes each epoch's random numbers a function of the run's seed and the epoch.

    MMEngine restores weights, optimizer, schedulers and counters, but no random state, and the state of data workers is
    out of any checkpoint's reach. So for whole epochs nothing is saved: at the start of an epoch dropout, batch
    augments and all else in the main process are seeded from (seed, epoch), and each item's augmentation from (seed,
    epoch, item), whichever worker loads it. An epoch after a resume then equals the same epoch of a run in one go, bit
    for bit where the operations are deterministic (on a CPU they are), with any number of workers.

    A checkpoint written inside of an epoch gets the main process's random state besides, of every rank. The run that
    resumes goes on behind the batches that were done, which are not loaded again.

    Where ``CoTrainingRunner`` has a pass over the data for each network, passes are counted instead of epochs.

    It acts on epoch-based training. An iteration-based loop has no such boundary and keeps MMEngine's behaviour.
    Repeated augmentation (``RepeatAugSampler``) needs several draws of an item in one epoch, so there
    augmentation keeps the workers' own random state.
    """

    def __init__(self) -> None:
        self._resumed: dict | None = None
        self._state: dict | None = None
        self._states: list[dict] | None = None
        self._skipped = 0
        #: Batches of the present pass that have been learned from.
        self.batches_done = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note where inside of a pass the run goes on.

        Raises:
            ResumeRefused: A pass has another number of batches now.
        """
        inside = checkpoint.get('inside_pass')
        if not runner._resume or not self._epoch_based(runner) or inside is None:
            return
        length = len(runner.train_dataloader)
        if inside['length'] != length:
            raise ResumeRefused(
                'Cannot resume: the checkpoint was written inside of a pass over the data, after '
                f'{inside["batches"]} of {inside["length"]} batches, and a pass now has {length}. Take the batch size '
                'of that run (over all processes together), or resume from the checkpoint of a whole epoch.'
            )
        self._resumed, self.batches_done = inside, inside['batches']

    def before_train_epoch(self, runner: Runner) -> None:
        """As :meth:`before_train_pass`: for most loops an epoch is one pass."""
        if not hasattr(runner.train_loop, 'data_pass'):
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
        self._enter(runner)

    def _enter(self, runner: Runner) -> None:
        """Let the pass begin at its first batch, or the first one after a resume behind those that were done."""
        loop, (inside, self._resumed) = runner.train_loop, (self._resumed, None)
        batch_sampler = loop.dataloader.batch_sampler
        if self._skipped:  # by the pass before this one
            batch_sampler.sampler = batch_sampler.sampler.whole
            del loop.run_iter
        self.batches_done, self._state = 0, None
        if inside is not None:
            self.batches_done, states = inside['batches'], inside['random_states']
            self._state = states[get_rank() % len(states)]
        if hasattr(loop, 'data_pass') and self.batches_done == len(loop.dataloader):
            self.batches_done, self._state = 0, None  # that pass was over, and the loop is at the next one
        self._skipped = self.batches_done
        if self._skipped:
            if type(batch_sampler) is not BatchSampler:
                raise ResumeRefused(
                    f'Cannot resume inside of a pass over the data with a {type(batch_sampler).__name__} as '
                    'batch_sampler. Resume from the checkpoint of a whole epoch.'
                )
            batch_sampler.sampler = _Rest(batch_sampler.sampler, self._skipped * batch_sampler.batch_size)
            run_iter, skipped = loop.run_iter, self._skipped
            loop.run_iter = lambda idx, data_batch: run_iter(idx + skipped, data_batch)  # batches keep their numbers

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Seed the main process in the first step: starting the data workers draws random numbers before."""
        if batch_idx > self._skipped or not self._epoch_based(runner):
            return
        if self._state is not None:
            _set_random_state(self._state)
            return
        rank = get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0
        a, b, c = np.random.SeedSequence((runner.seed, self._data_pass(runner), rank)).generate_state(3)
        random.seed(int(a))
        np.random.seed(b)
        torch.manual_seed(int(c))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Count."""
        self.batches_done = batch_idx + 1

    def after_train_epoch(self, runner: Runner) -> None:
        """Whatever is saved from now on is at the end of an epoch, or after it."""
        self.batches_done = 0

    def before_write_checkpoint(self, runner: Runner) -> None:
        """Gather the ranks' random states. ``DurableCheckpointHook`` calls this on all ranks."""
        if self.batches_done:
            own = io.BytesIO()
            torch.save(_random_state(), own)  # tensors do not go through torch's pickling of objects
            states = all_gather_object(own.getvalue())
            self._states = [torch.load(io.BytesIO(state), weights_only=True) for state in states]

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the place inside of a pass into the checkpoint, and the random state there."""
        if self.batches_done and self._epoch_based(runner):
            checkpoint['inside_pass'] = dict(
                batches=self.batches_done,
                length=len(runner.train_dataloader),
                random_states=self._states or [_random_state()],
            )
        self._states = None

    @staticmethod
    def _data_pass(runner: Runner) -> int:
        return getattr(runner.train_loop, 'data_pass', runner.epoch)

    @staticmethod
    def _epoch_based(runner: Runner) -> bool:
        return isinstance(runner.train_loop, EpochBasedTrainLoop)


class _Rest(Sampler):
    """What a sampler draws, without the first items. Its length stays that of the whole, and so does the loader's."""

    def __init__(self, whole: Sampler, skipped: int) -> None:
        self.whole, self._skipped = whole, skipped

    def __iter__(self) -> Iterator[int]:
        return islice(self.whole, self._skipped, None)

    def __len__(self) -> int:
        return len(self.whole)


def _random_state() -> dict:
    """Of the main process, in types that a checkpoint may hold."""
    name, keys, *rest = np.random.get_state()
    state = dict(python=random.getstate(), numpy=(name, torch.from_numpy(keys), *rest), torch=torch.get_rng_state())
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict) -> None:
    name, keys, *rest = state['numpy']
    random.setstate(state['python'])
    np.random.set_state((name, keys.cpu().numpy(), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


@contextmanager
def kept_random_state() -> Iterator[None]:
    """What is drawn at random within this context does not change what is drawn after it."""
    state = _random_state()
    try:
        yield
    finally:
        _set_random_state(state)
