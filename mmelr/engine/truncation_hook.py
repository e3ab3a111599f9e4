"""``TruncationHook``: which samples the truncated generalized cross entropy learns from."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..models import TruncatedGCELoss
from .predictions import loss_and_dataset, training_predictions

__all__ = ['TruncationHook']


@HOOKS.register_module()
class TruncationHook(Hook):
    """Prunes the training set for ``TruncatedGCELoss``, as Algorithm 1 of Zhang & Sabuncu 2018 does.

    Before epoch ``start`` + 1, and then every ``interval`` epochs, the network predicts the whole training set; until
    the next pruning the loss learns from the samples whose label has a probability above its threshold k. A sample
    that was dropped may come back. This costs a forward pass over the data each time. Several processes share it.

    Which samples are kept is in the checkpoints, so that a resumed run goes on with them. The published values of
    ``start`` and ``interval`` are for 120 epochs: a shorter schedule needs smaller ones.

    Args:
        start (int): Epochs before the first pruning. Defaults to 40.
        interval (int): Epochs from one pruning to the next. Defaults to 10.

    Raises:
        ValueError: A value outside its range.
    """

    priority = 'VERY_HIGH'  # MMEngine's EMAHook copies the model in its before_run, and pairs buffers by their order

    def __init__(self, start: int = 40, interval: int = 10) -> None:
        if not isinstance(start, int) or start < 0:
            raise ValueError(f'start of TruncationHook must be a number of epochs, at least 0, got {start!r}.')
        if not isinstance(interval, int) or interval < 1:
            raise ValueError(f'interval of TruncationHook must be a number of epochs, at least 1, got {interval!r}.')
        self.start = start
        self.interval = interval

    def before_run(self, runner: Runner) -> None:
        """Make the table, before a checkpoint is loaded into it."""
        found = loss_and_dataset(runner, (TruncatedGCELoss,), self)
        if found is None:
            return
        self._loss, self._dataset = found
        self._loss.make_table(self._dataset.num_samples)
        epochs = runner.train_loop.max_epochs
        if self.start >= epochs:
            runner.logger.warning(
                f'TruncationHook prunes first after {self.start} epochs, and this run has {epochs}: it never will, and '
                'trains with the plain loss. Lower start, in proportion to the published 40 of 120.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Prune, if it is time."""
        epoch, hub = runner.epoch, runner.message_hub
        due = epoch >= self.start and (epoch - self.start) % self.interval == 0
        # A run that was cut off inside of this epoch has pruned for it, with other weights than it has now.
        if not due or hub.get_info('pruned_before_epoch') == epoch:
            return
        labels = torch.from_numpy(self._dataset.record.noisy_label)
        for indices, logits in training_predictions(runner):
            self._loss.prune(logits, labels[indices].to(logits.device), indices)
        hub.update_info('pruned_before_epoch', epoch)
        self._report(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Tell the loss which samples it will see."""
        self._loss.indices = torch.tensor([sample.sample_idx for sample in data_batch['data_samples']])

    def _report(self, runner: Runner) -> None:
        record = self._dataset.record
        used = torch.from_numpy(self._dataset.sample_idx).unique()
        kept = self._loss.kept.cpu()[used]
        text = f'Truncation: {int(kept.sum())} of {len(used)} samples kept'
        if record.clean_label is not None:
            wrong = torch.from_numpy(record.noisy_label != record.clean_label)[used]
            text += f'; of {int(wrong.sum())} wrong labels {int((wrong & ~kept).sum())} dropped'
        runner.logger.info(f'{text}.')
        if not kept.any():
            runner.logger.warning(
                'Truncation left no sample to learn from: for none has the network a probability above '
                f'k={self._loss.k} of its label. Prune later (start), or lower k.'
            )
