"""``NoiseRecordHook``: every run leaves its noise on record, and resumes with that noise or not at all."""

from __future__ import annotations

import os.path as osp

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..models import ELRHead
from .utils import bare_model, noisy_dataset

__all__ = ['NoiseRecordHook']


@HOOKS.register_module()
class NoiseRecordHook(Hook):
    """Keeps the labels that a run was trained on, and guards what depends on them.

    - Writes ``noise.npz`` into the work directory (see :class:`mmelr.noise.NoiseRecord`); ``LabelFile`` reads it.
    - Puts the noise's fingerprint into each checkpoint, and refuses to resume with other noise or another dataset.
    - Refuses batch augments that mix labels before ``ELRHead`` sees them.
    - Leaves the target memory behind where only weights are wanted from a checkpoint (``load_from``, testing).

    It needs a :class:`NoisyLabelDataset` as the training dataset.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Check the data and the model, before any checkpoint is read or time is spent."""
        dataset = noisy_dataset(runner)
        if dataset is not None:
            runner.logger.info(dataset.record.summary())
        model = bare_model(runner)
        augments = getattr(getattr(model, 'data_preprocessor', None), 'batch_augments', None)
        if augments is not None and _memory_keys(model):
            names = ', '.join(type(a).__name__ for a in augments.augments if a is not None)
            raise ValueError(
                f'The batch augments of this config ({names}) mix the labels before ELRHead sees them, so it '
                'cannot tell whose prediction it averages. Remove them: --cfg-options '
                'model.train_cfg=None model.data_preprocessor.batch_augments=None'
            )

    def before_train(self, runner: Runner) -> None:
        """Write the noise file. A resumed run gets here only if its noise is the old one."""
        dataset = noisy_dataset(runner)
        if dataset is not None and is_main_process():
            dataset.record.save(osp.join(runner.work_dir, 'noise.npz'))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the fingerprint into the checkpoint."""
        dataset = noisy_dataset(runner)
        if dataset is not None:
            checkpoint['noise'] = _identity(dataset.record)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare fingerprints when resuming; otherwise take the weights without the memory."""
        # Runner.resume would run this text as Python. MMEngine itself writes 'cfg', which it leaves alone.
        checkpoint.get('meta', {}).pop('config', None)
        dataset = noisy_dataset(runner)
        if not runner._resume:
            for key in _memory_keys(bare_model(runner)):
                if checkpoint.get('state_dict', {}).pop(key, None) is not None and dataset is not None:
                    runner.logger.info(
                        f'{key} of the checkpoint is left behind: this run starts its own target memory.'
                    )
            return
        if dataset is None:
            return
        now, saved = _identity(dataset.record), checkpoint.get('noise')
        if saved is None:
            raise ValueError(
                'Cannot resume: the checkpoint does not say which noise it was trained with, so it is not of '
                'a run with NoiseRecordHook. To start anew from its weights use load_from instead of resume.'
            )
        for key, what in (
            ('num_samples', 'another dataset (number of samples)'),
            ('num_classes', 'another dataset (number of classes)'),
            ('fingerprint', 'other labels'),
        ):
            if saved[key] != now[key]:
                raise ValueError(
                    f'Cannot resume: the checkpoint was trained on {what}. {key} then: {saved[key]}, '
                    f'now: {now[key]}. Noise then: {saved["description"]}; now: {now["description"]}. Use the '
                    'noise and dataset of that run (its noise.npz: --noise file:.../noise.npz), or another '
                    'work directory for a new run.'
                )


def _identity(record) -> dict:
    return dict(
        fingerprint=record.fingerprint,
        num_samples=record.num_samples,
        num_classes=record.num_classes,
        description=record.description,
    )


def _memory_keys(model) -> list[str]:
    """State-dict keys of the target memories, whether they exist yet or not; none without an ELR head."""
    return [f'{name}.memory.t' for name, module in model.named_modules() if isinstance(module, ELRHead)]
