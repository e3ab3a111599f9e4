"""``PaddingHook``: no sample counts twice in a pass because the ranks must have as many each."""

from __future__ import annotations

from mmengine.dataset import DefaultSampler
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader, Sampler

from ..datasets import ClassBalancedSampler
from ..models import ELRHead
from .utils import bare_model

__all__ = ['PaddingHook']


@HOOKS.register_module()
class PaddingHook(Hook):
    """Takes the samples out of a batch that the sampler repeated to give every rank as many.

    Rank k of N gets the places k, k + N, ... of the sampler's order, and where there is no such place any more, a
    sample from the beginning of the order once again: at most one in a pass, the last. This hook takes it out. Batches
    then differ in size, so all samples of that batch carry as meta information

    - ``places``, the size of the largest batch of any rank, for :meth:`mmelr.TargetMemory.update`;
    - ``loss_weight``, n_k N / r for n_k samples on this rank and r on all: ``DistributedDataParallel`` takes the plain
      mean of the ranks' gradients, each of a mean over the rank's own samples; so it is that of the mean over all r.

    ``ELRHead`` heeds both. A batch that would be left empty stays as it is, with weight 0, and the memory does not see
    it.

    It acts on models with an ``ELRHead``, on the orders of ``DefaultSampler`` and ``ClassBalancedSampler``, and in
    several processes; else it does nothing.

    Raises:
        ValueError: ``DefaultSampler(round_up=False)``, which can give the ranks numbers of batches that differ.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out whether there is anything to do."""
        loader = runner.train_loop.dataloader
        self._rank, self._ranks = get_dist_info()
        self._drawn = None
        # A batch sampler of the config has its own order; torch's loader then has no batch size.
        if self._ranks > 1 and loader.batch_size and any(isinstance(m, ELRHead) for m in bare_model(runner).modules()):
            self._drawn = _drawn(loader.sampler)
        if self._drawn is not None and not getattr(loader.sampler, 'round_up', True) and self._drawn % self._ranks:
            raise ValueError(
                f'train_dataloader.sampler has round_up=False, and {self._drawn} samples are no multiple of '
                f'{self._ranks} processes: some could have a batch more than others, and wait for ever. Leave round_up '
                'out; what it repeats is not trained on twice.'
            )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Take the repeated sample out of the batch."""
        if self._drawn is None:
            return
        loader = runner.train_loop.dataloader
        # Not batch_idx: that counts from where a resumed pass goes on.
        real = [_real(loader, self._drawn, rank, self._ranks, runner.iter % len(loader)) for rank in range(self._ranks)]
        if len(set(real)) == 1:
            return
        for key in data_batch if real[self._rank] else ():
            data_batch[key] = data_batch[key][: real[self._rank]]
        weight = real[self._rank] * self._ranks / sum(real)
        for sample in data_batch['data_samples']:
            sample.set_metainfo(dict(places=max(real), loss_weight=weight))


def _drawn(sampler: Sampler) -> int | None:
    """Samples that the ranks share in a pass, before any is repeated; None where it is not known that one is."""
    if isinstance(sampler, ClassBalancedSampler):
        return sampler.num_drawn
    return len(sampler.dataset) if type(sampler) is DefaultSampler else None


def _real(loader: DataLoader, drawn: int, rank: int, ranks: int, position: int) -> int:
    """Samples of a rank in the batch at a position of the pass, without a repeated one."""
    own = len(range(rank, drawn, ranks))
    return min(max(own - position * loader.batch_size, 0), loader.batch_size)
