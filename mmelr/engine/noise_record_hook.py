"""``NoiseRecordHook``: every run leaves its noise on record, and resumes with that noise or not at all."""

from __future__ import annotations

import hashlib
import os.path as osp

from mmengine.dist import all_gather_object, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner, find_latest_checkpoint
from mmpretrain.registry import HOOKS

from ..datasets import NoisyLabelDataset
from ..models import CoTrainingClassifier, ELRHead
from ..models.baseline_losses import run_entries
from ..noise import NoiseRecord
from .utils import bare_model, networks, noisy_dataset

__all__ = ['NoiseRecordHook', 'ResumeRefused']


class ResumeRefused(ValueError):
    """The checkpoint is of a run on other labels or data, or of another method; nothing of that run was changed."""


@HOOKS.register_module()
class NoiseRecordHook(Hook):
    """Keeps the labels that a run was trained on, and guards what depends on them.

    - Writes ``noise.npz`` into the work directory (see :class:`mmelr.noise.NoiseRecord`); ``LabelFile`` reads it.
    - Puts the noise's fingerprint into each checkpoint, and refuses to resume with other noise, another dataset, or
      another choice of ELR+ (networks, teacher, schedule, length of a pass).
    - With several processes, refuses labels or data that differ between them.
    - Refuses batch augments that mix labels before ``ELRHead`` sees them.
    - Leaves the target memory behind where only weights are wanted from a checkpoint (``load_from``, testing), and with
      it the transition matrix and the table of samples kept of the baselines; and to a run that starts from it, the
      weight averages as well.

    It needs a :class:`NoisyLabelDataset` as the training dataset.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        """Check the data, the model and the work directory, before any checkpoint is read or time is spent."""
        model, dataset = bare_model(runner), noisy_dataset(runner)
        if dataset is None:
            return
        _check_ranks(dataset)
        runner.logger.info(dataset.record.summary())
        network = next(iter(networks(runner).values()))
        classes = getattr(getattr(network, 'head', None), 'num_classes', None)
        if classes is not None and classes < dataset.record.num_classes:
            where = 'model.head' if network is model else 'model.network.head'
            raise ValueError(
                f'The head has num_classes={classes}, but the training set has {dataset.record.num_classes} classes. '
                f'Set {where}.num_classes={dataset.record.num_classes}.'
            )
        augments = getattr(getattr(model, 'data_preprocessor', None), 'batch_augments', None)
        if augments is not None and any(isinstance(module, ELRHead) for module in model.modules()):
            names = ', '.join(type(a).__name__ for a in augments.augments if a is not None)
            raise ValueError(
                f'The batch augments of this config ({names}) mix the labels before ELRHead sees them, so it '
                'cannot tell whose prediction it averages. Remove them: '
                f'--cfg-options {_where_augments(runner.cfg)}=None'
            )
        earlier = osp.join(runner.work_dir, 'noise.npz')
        if not runner._resume and osp.exists(earlier) and find_latest_checkpoint(runner.work_dir):
            found = NoiseRecord.load(earlier)
            if found.fingerprint != dataset.record.fingerprint:
                raise ValueError(
                    f'{runner.work_dir} holds the checkpoints of a run on other labels ({found.summary()}). '
                    'Give this run a --work-dir of its own, or delete that one.'
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
            checkpoint['noise'] = _identity(dataset)
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            checkpoint['iterations_of_a_pass'] = len(runner.train_dataloader)
        checkpoint['co_training'] = getattr(runner.train_loop, 'identity', None)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare fingerprints when resuming; otherwise take the weights without the memory."""
        # Runner.resume would run this text as Python. MMEngine itself writes 'cfg', which it leaves alone.
        checkpoint.get('meta', {}).pop('config', None)
        dataset = noisy_dataset(runner)
        if not runner._resume:
            _leave_behind(runner, checkpoint.get('state_dict', {}), starts=dataset is not None)
            return
        if dataset is None:
            return
        now, saved = getattr(runner.train_loop, 'identity', None), checkpoint.get('co_training')
        if now != saved:
            loader = runner.train_dataloader
            raise ResumeRefused(
                f'Cannot resume: the checkpoint was trained by {_method(saved)}, this run is one by {_method(now)}. '
                'Set what differs back, or take another work directory. (The iterations of a pass follow from '
                f'batch_size × processes, now {loader.batch_size} × {get_world_size()}.)'
            )
        now, saved = _identity(dataset), checkpoint.get('noise')
        if saved is None:
            raise ResumeRefused(
                'Cannot resume: the checkpoint does not say which noise it was trained with, so it is not of '
                'a run with NoiseRecordHook. To start anew from its weights use load_from instead of resume.'
            )
        for key, what in (
            ('num_samples', 'another dataset (number of samples)'),
            ('num_classes', 'another dataset (number of classes)'),
            ('fingerprint', 'other labels'),
            ('samples', 'another part of the dataset (subset, fold or repetition)'),
        ):
            if saved[key] != now[key]:
                raise ResumeRefused(
                    f'Cannot resume: the checkpoint was trained on {what}. {key} then: {saved[key]}, '
                    f'now: {now[key]}. Noise then: {saved["description"]}; now: {now["description"]}. Use the '
                    'noise and dataset of that run (its noise.npz: --noise file:.../noise.npz), or another '
                    'work directory for a new run.'
                )
        _count_passes_anew(runner, checkpoint)


def _check_ranks(dataset: NoisyLabelDataset) -> None:
    """Refuse data that is not the same in all processes: a label file, or a folder, of one node."""
    identities = all_gather_object(_identity(dataset))
    differ = [rank for rank, identity in enumerate(identities) if identity != identities[0]]
    if differ:
        raise ValueError(
            'The training labels are not the same in all processes: those of rank '
            f'{", ".join(map(str, differ))} are not those of rank 0. Rank 0 has {identities[0]}, rank {differ[0]} has '
            f'{identities[differ[0]]}. Give every node the same label files and data.'
        )


def _count_passes_anew(runner: Runner, checkpoint: dict) -> None:
    """Another global batch is allowed to plain ELR; iterations are then those that this run would have taken."""
    saved, loop = checkpoint.get('iterations_of_a_pass'), runner.train_loop
    if saved is None or not isinstance(loop, EpochBasedTrainLoop) or saved == len(loop.dataloader):
        return
    meta, now = checkpoint['meta'], len(loop.dataloader)
    runner.logger.warning(
        f'A pass over the data had {saved} iterations when the checkpoint was written, now it has {now}: another '
        f'batch_size × processes (now {loop.dataloader.batch_size} × {get_world_size()}). This run will not be the one '
        f'that was interrupted. It goes on at the start of epoch {meta["epoch"] + 1}; give it the learning rate of its '
        'batch size. For the same run keep batch_size × processes.'
    )
    meta['iter'] = meta['epoch'] * now


def _identity(dataset: NoisyLabelDataset) -> dict:
    record = dataset.record
    return dict(
        fingerprint=record.fingerprint,
        num_samples=record.num_samples,
        num_classes=record.num_classes,
        samples=hashlib.sha256(dataset.sample_idx.astype('<i8').tobytes()).hexdigest()[:16],
        description=record.description,
    )


def _where_augments(cfg) -> str:
    """The option that batch augments were set with; another one would replace the whole data preprocessor."""
    if cfg.model.get('train_cfg'):
        return 'model.train_cfg'
    if cfg.model.get('network', {}).get('train_cfg'):
        return 'model.network.train_cfg'
    in_model = (cfg.model.get('data_preprocessor') or {}).get('batch_augments')
    return 'model.data_preprocessor.batch_augments' if in_model else 'data_preprocessor.batch_augments'


def _method(identity: dict | None) -> str:
    if identity is None:
        return 'a single network'
    return 'CoTrainingRunner with ' + ', '.join(f'{key}={value!r}' for key, value in identity.items())


def _leave_behind(runner: Runner, state_dict: dict, starts: bool) -> None:
    """Take out of a checkpoint what belongs to the run that wrote it."""
    co_training = isinstance(bare_model(runner), CoTrainingClassifier)
    if not co_training and any(key.startswith('network1.') for key in state_dict):
        raise ValueError(
            'The checkpoint is of an ELR+ run, the model a single network. Publish one of its members first: '
            'tools/publish_model.py CHECKPOINT OUT.pth --member network1'
        )
    left = run_entries(state_dict)
    if starts and co_training:
        left += [key for key in state_dict if key.startswith('average') or key == '_extra_state']
    for key in left:
        del state_dict[key]
    names = sorted({'weight averages' if key.startswith('average') else key for key in left} - {'_extra_state'})
    if starts and names:
        runner.logger.info(f'Left behind in the checkpoint, for this run starts its own: {", ".join(names)}.')
