"""What a training step costs, beside what it must cost: contenders that take turns with the same batches."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

__all__ = ['CASES', 'Case', 'Contender', 'bare_passes', 'co_training', 'now', 'single', 'summary', 'take_turns']

GAMMA = 0.997


@dataclass(frozen=True)
class Case:
    """A network and the images that it sees.

    Attributes:
        backbone (dict): Config of the backbone.
        shape (tuple[int, int, int]): Of an image: channels, height, width.
        features (int): Width of what the head gets.
        classes (int): C.
    """

    backbone: dict
    shape: tuple[int, int, int]
    features: int
    classes: int = 10

    def model(self, head: str = 'LinearClsHead') -> dict:
        """Config of an ``ImageClassifier`` of this network."""
        return dict(
            type='ImageClassifier',
            data_preprocessor=self.preprocessor,
            backbone=copy.deepcopy(self.backbone),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type=head, num_classes=self.classes, in_channels=self.features),
        )

    @property
    def preprocessor(self) -> dict:
        """Config of the data preprocessor: it normalises."""
        channels = self.shape[0]
        return dict(type='ClsDataPreprocessor', mean=[127.0] * channels, std=[64.0] * channels)

    def batch(self, size: int, num_samples: int) -> dict:
        """A batch as the data loader gives it, new samples every time: a training step writes on them."""
        indices = np.random.choice(num_samples, size, replace=False) if num_samples < 2**17 else None
        indices = np.random.randint(num_samples, size=size) if indices is None else indices
        samples = []
        for i in indices.tolist():
            sample = DataSample(metainfo=dict(sample_idx=i, num_samples=num_samples, img_shape=self.shape[1:]))
            samples.append(sample.set_gt_label(i % self.classes))
        return dict(inputs=torch.randint(256, (size, *self.shape), dtype=torch.uint8), data_samples=samples)


#: The networks that can be measured: the digits' and a narrow one, and those of the paper's experiments.
CASES = {
    'digits': Case(dict(type='ResNet_CIFAR', depth=18, in_channels=1, stem_channels=8, base_channels=8), (1, 8, 8), 64),
    'narrow18': Case(dict(type='ResNet_CIFAR', depth=18, stem_channels=16, base_channels=16), (3, 32, 32), 128),
    'resnet18': Case(dict(type='ResNet_CIFAR', depth=18), (3, 32, 32), 512),
    'resnet34': Case(dict(type='ResNet_CIFAR', depth=34), (3, 32, 32), 512),
    'preact18': Case(dict(type='PreActResNet', depth=18), (3, 32, 32), 512),
    'resnet50': Case(dict(type='ResNet', depth=50), (3, 224, 224), 2048, classes=14),
}


@dataclass
class Contender:
    """Something whose time is taken.

    Attributes:
        step (Callable): Does it once, with what ``prepare`` gave.
        prepare (Callable): Makes what a step needs, before the clock runs.
        parts (int): What a step stands for, e.g. 2 for the steps of two networks. Times are divided by it.
    """

    step: Callable
    prepare: Callable = lambda: None
    parts: int = 1


def now(device: str) -> float:
    """Seconds: on a CPU those that this process was given, so that other programs do not count; else of the clock."""
    if device == 'cpu':
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def take_turns(contenders: dict[str, Contender], rounds: int, steps: int, device: str) -> dict[str, list[float]]:
    """Seconds of a step of each contender, in every round; a round before them warms up.

    Args:
        contenders (dict[str, Contender]): By name.
        rounds (int): How often all have their turn; the order changes from round to round.
        steps (int): Steps of a turn.
        device (str): Where they compute.

    Returns:
        dict[str, list[float]]: By name, a number for each round.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(rounds + 1):
        for name in list(contenders)[:: 1 if k % 2 else -1]:
            contender = contenders[name]
            prepared = [contender.prepare() for _ in range(steps)]
            start = now(device)
            for batch in prepared:
                contender.step(batch)
            times[name].append((now(device) - start) / steps / contender.parts)
    return {name: values[1:] for name, values in times.items()}


def summary(times: dict[str, list[float]], reference: str) -> dict[str, dict[str, float]]:
    """Medians, and medians of the ratios within each round, which a machine's changing speed does not move.

    Args:
        times (dict[str, list[float]]): What :func:`take_turns` returned.
        reference (str): What the ratios are to.

    Returns:
        dict[str, dict[str, float]]: By name ``ms``, ``ratio``, ``low`` and ``high``, the quartiles of the ratio.
    """
    rows = {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[reference], strict=True)]
        low, high = np.quantile(ratios, [0.25, 0.75]).tolist()
        rows[name] = dict(
            ms=1000 * statistics.median(values), ratio=statistics.median(ratios), low=low, high=high
        )
    return rows


def optimizer(amp: bool) -> dict:
    """Config of the optimizer, the paper's."""
    wrapper = dict(optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-3))
    return dict(wrapper, type='AmpOptimWrapper') if amp else dict(wrapper, type='OptimWrapper')


def single(case: Case, head: str, size: int, num_samples: int, device: str, amp: bool, change=None) -> Contender:
    """Training steps of a classifier, from the batch on the CPU to the optimizer, as MMEngine's loop asks for them.

    Args:
        case (Case): Network and images.
        head (str): ``'LinearClsHead'`` for cross entropy, ``'ELRHead'``.
        size (int): Batch size N.
        num_samples (int): n.
        device (str): Where.
        amp (bool): With automatic mixed precision.
        change (Callable, optional): Called with the model once it is on its device, for variants.

    Returns:
        Contender: Of one step.
    """
    model = MODELS.build(case.model(head)).to(device).train()
    model = (change(model) if change else None) or model
    wrapper = build_optim_wrapper(model, optimizer(amp))
    return Contender(lambda data: model.train_step(data, wrapper), lambda: case.batch(size, num_samples))


def co_training(
    case: Case, schedule: str, size: int, num_samples: int, device: str, amp: bool, change=None
) -> dict[str, Contender]:
    """Steps of ELR+ with two networks, weight averages and mixup; what is measured is for one network.

    Args:
        case (Case): Network and images.
        schedule (str): ``'joint'``: both networks step on each batch; ``'alternate'``: one of them.
        size (int): Batch size N.
        num_samples (int): n.
        device (str): Where.
        amp (bool): With automatic mixed precision.
        change (Callable, optional): Called with the model once it is on its device.

    Returns:
        dict[str, Contender]: ``'step'``, averages included, and ``'average'``, a weight average's update alone.
    """
    network = case.model('ELRHead')
    model = MODELS.build(
        dict(type='CoTrainingClassifier', network=network, mixup=dict(type='ELRMixup', alpha=1.0))
    )
    model = model.to(device).train()
    model = (change(model) if change else None) or model
    wrappers = {name: build_optim_wrapper(getattr(model, name), optimizer(amp)) for name in model.network_names}
    turns = [model.network_names] if schedule == 'joint' else [(name,) for name in model.network_names]
    count = 0

    def step(data: dict) -> None:
        nonlocal count
        names, count = turns[count % len(turns)], count + 1
        model.train_step(data, OptimWrapperDict(**{name: wrappers[name] for name in names}))
        for name in names:
            model.update_average(name, GAMMA)

    return dict(
        step=Contender(step, lambda: case.batch(size, num_samples), parts=len(turns[0])),
        average=Contender(lambda _: model.update_average('network1', GAMMA)),
    )


def bare_passes(case: Case, size: int, device: str, amp: bool, teacher: bool, change=None) -> Contender:
    """The floor: the passes through networks that a step needs, and the optimizer, and nothing else.

    Images are on the device and normalised, labels are distributions.

    Args:
        case (Case): Network and images.
        size (int): Batch size N.
        device (str): Where.
        amp (bool): With automatic mixed precision.
        teacher (bool): With the forward pass of a second network, without gradient, as ELR+ needs it.
        change (Callable, optional): Called with each network once it is on its device.

    Returns:
        Contender: Of one step of one network.
    """

    def build() -> nn.Module:
        model = MODELS.build(case.model()).to(device).train()
        return (change(model) if change else None) or model

    network, other = build(), build() if teacher else None
    sgd = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    scaler = torch.amp.GradScaler(device, enabled=amp)
    x = torch.randn(size, *case.shape, device=device)
    y = torch.randn(size, case.classes, device=device).softmax(dim=1)

    def step(_: None) -> None:
        with torch.autocast(device, dtype=torch.float16 if device != 'cpu' else torch.bfloat16, enabled=amp):
            if other is not None:
                with torch.no_grad():
                    other(x, mode='tensor')
            loss = F.cross_entropy(network(x, mode='tensor').float(), y)
        scaler.scale(loss).backward()
        scaler.step(sgd)
        scaler.update()
        sgd.zero_grad()

    return Contender(step)
