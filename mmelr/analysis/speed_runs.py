"""A whole training run beside a bare PyTorch loop that computes the same, epoch by epoch in turn."""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch.utils.data import DataLoader, Dataset, default_collate

from ..losses import ELRLoss
from .speed import CASES, now
from .speed_data import RandomImages

__all__ = ['beside_bare_loop', 'in_memory', 'run_config']

#: Images of an epoch and of a validation, and batch size, of the cases that are trained.
SIZES = {'digits': (1438, 359, 64), 'narrow18': (1280, 320, 64)}
_MEAN, _STD = 127.0, 64.0


class _BareImages(Dataset):
    """The same images, for PyTorch alone: image, label and index."""

    def __init__(self, dataset: RandomImages, augment: bool) -> None:
        items = [dataset.get_data_info(i) for i in range(len(dataset))]
        self.images = np.stack([item['img'] for item in items])
        self.labels = [int(item['gt_label']) for item in items]
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple:
        image = self.images[i]
        if self.augment:
            size = image.shape[0]
            image = np.pad(image, ((4, 4), (4, 4), (0, 0)))
            y, x = np.random.randint(9, size=2)
            image = image[y : y + size, x : x + size]
            if np.random.rand() < 0.5:
                image = image[:, ::-1]
        image = image if image.ndim == 3 else image[..., None]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), self.labels[i], i


def run_config(case: str, work_dir: str, epochs: int) -> Config:
    """Config of an ELR run with every hook of our configs; cross entropy or ELR+ by ``mmelr.apply_method``.

    Args:
        case (str): ``'digits'`` (8x8, no augmentation) or ``'narrow18'`` (32x32, crop and flip).
        work_dir (str): Where it writes.
        epochs (int): Epochs, each with its checkpoint and its validation.

    Returns:
        Config: Of a run on :class:`RandomImages`.
    """
    train, val, batch = SIZES[case]
    shape = CASES[case].shape
    augment = [dict(type='RandomCrop', crop_size=32, padding=4), dict(type='RandomFlip', prob=0.5)] * (shape[0] > 1)
    pack = [dict(type='PackInputs')]
    runtime = Config.fromfile(str(Path(__file__).parents[2] / 'configs/_base_/default_runtime.py'))
    shared = dict(num_workers=0, collate_fn=dict(type='default_collate'))
    images = dict(type='RandomImages', shape=shape)
    model = CASES[case].model('ELRHead')
    cfg = dict(
        model=model,
        data_preprocessor=model.pop('data_preprocessor'),
        train_dataloader=dict(
            shared,
            batch_size=batch,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(
                type='NoisyLabelDataset',
                dataset=dict(images, number=train, pipeline=augment + pack),
                noise=dict(type='SymmetricNoise', rate=0.4),
            ),
        ),
        val_dataloader=dict(
            shared,
            batch_size=val,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(images, number=val, pipeline=pack),
        ),
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-3)),
        param_scheduler=dict(type='MultiStepLR', by_epoch=True, milestones=[40, 80], gamma=0.01),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        **runtime.to_dict(),
    )
    # As MMEngine's loggers are: one for each name.
    return Config(cfg | dict(work_dir=work_dir, log_level='ERROR', experiment_name=Path(work_dir).name))


def in_memory(cfg: Config) -> Config:
    """The same run with its images in memory: ``InMemoryDataset`` and ``InMemoryPreprocessor``."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        owner = loader.dataset if loader.dataset.type == 'NoisyLabelDataset' else loader
        owner.dataset = dict(owner.dataset, type='InMemoryDataset', base=owner.dataset.type)
    cfg.data_preprocessor.type = 'InMemoryPreprocessor'
    return cfg


def _bare_epochs(case: str, device: str, folder: str, clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """Train for ever, an epoch at a time, with a checkpoint and a validation. Yields the seconds of the parts."""
    train, val, batch = SIZES[case]
    shape = CASES[case].shape
    images = _BareImages(RandomImages(number=train, shape=shape), augment=shape[0] > 1)
    loader = DataLoader(images, batch, shuffle=True, collate_fn=default_collate)
    held_out = DataLoader(_BareImages(RandomImages(number=val, shape=shape), False), val)
    model = MODELS.build(CASES[case].model()).to(device)
    criterion = ELRLoss(train, 10).to(device)
    sgd = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(sgd, [40, 80], 0.01)
    while True:
        parts: dict[str, float] = defaultdict(float)
        last = clock()

        def lap(part: str, parts=parts) -> None:
            nonlocal last
            time = clock()
            parts[part] += time - last
            last = time

        model.train()
        for x, y, i in loader:
            lap('data')
            logits = model((x.to(device).float() - _MEAN) / _STD, mode='tensor')
            loss = criterion(logits, y.to(device), i)
            lap('forward and loss')
            loss.backward()
            sgd.step()
            sgd.zero_grad()
            lap('backward and optimizer')
        schedule.step()
        state = dict(model=model.state_dict(), optimizer=sgd.state_dict(), loss=criterion.state_dict())
        torch.save(state, Path(folder) / 'bare.pth')
        lap('checkpoint')
        model.eval()
        with torch.no_grad():
            for x, y, _ in held_out:
                logits = model((x.to(device).float() - _MEAN) / _STD, mode='tensor')
                (logits.argmax(dim=1).cpu() == y).float().mean().item()
        lap('validation')
        yield parts


class _InTurn(Hook):
    """Before each epoch of the run lets the bare loop do one, and takes the time of both and of the run's parts."""

    priority = 0

    def __init__(self, bare: Iterator[dict[str, float]], clock: Callable[[], float]) -> None:
        self.bare, self.clock = bare, clock
        self.epochs: list[dict[str, dict[str, float]]] = []
        self._parts: dict[str, float] = defaultdict(float)

    def before_train(self, runner: Runner) -> None:
        model = runner.model
        self._time(model.data_preprocessor, 'forward', 'preprocessing')
        self._time(model, 'train_step', 'forward and loss')
        for wrapper in getattr(runner.optim_wrapper, 'optim_wrappers', {'': runner.optim_wrapper}).values():
            self._time(wrapper, 'update_params', 'backward and optimizer')
        self._time(runner.val_loop, 'run', 'validation')
        for hook in runner.hooks:
            if hook is not self:
                for stage in hook.get_triggered_stages():
                    self._time(hook, stage, type(hook).__name__)

    def _time(self, owner: object, name: str, part: str) -> None:
        """Count the time inside of a method; what another part inside of it takes is that part's."""
        method = getattr(owner, name)

        def timed(*args, **kwargs):
            start, others = self.clock(), sum(self._parts.values())
            try:
                return method(*args, **kwargs)
            finally:
                self._parts[part] += self.clock() - start - (sum(self._parts.values()) - others)

        setattr(owner, name, timed)

    def _close(self) -> None:
        if self.epochs:
            total = self.clock() - self._start
            self.epochs[-1]['run'] = dict(self._parts, data=total - sum(self._parts.values()))

    def before_train_epoch(self, runner: Runner) -> None:
        self._close()
        self.epochs.append(dict(bare=next(self.bare)))
        self._parts.clear()
        self._start = self.clock()

    def after_train(self, runner: Runner) -> None:
        self._close()


def beside_bare_loop(case: str, epochs: int, device: str, change: Callable[[Config], Config] = lambda cfg: cfg) -> dict:
    """Train by MMEngine with all hooks, and bare, in turn.

    Args:
        case (str): See :func:`run_config`.
        epochs (int): Of each, after one that warms up.
        device (str): Where; MMEngine takes a GPU where there is one.
        change (Callable): Makes the config that is trained from that of :func:`run_config`.

    Returns:
        dict: ``speed``, the run's speed as a part of the bare loop's (the median over the epochs); ``steps`` of an
        epoch; and ``run`` and ``bare``, the median seconds of an epoch's parts.
    """

    def clock() -> float:
        return now(device)

    with tempfile.TemporaryDirectory() as folder:
        runner = Runner.from_cfg(change(run_config(case, folder, epochs + 1)))
        turns = _InTurn(_bare_epochs(case, device, folder, clock), clock)
        runner.register_hook(turns, priority=0)
        runner.train()
        steps = len(runner.train_dataloader)
    measured = turns.epochs[1:]
    totals = {name: [sum(epoch[name].values()) for epoch in measured] for name in ('bare', 'run')}
    result = dict(
        speed=statistics.median(b / r for b, r in zip(totals['bare'], totals['run'], strict=True)), steps=steps
    )
    for name in ('run', 'bare'):
        parts = {part for epoch in measured for part in epoch[name]}
        result[name] = {part: statistics.median(e[name].get(part, 0.0) for e in measured) for part in parts}
    return result
