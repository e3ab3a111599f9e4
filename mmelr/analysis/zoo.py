"""Does ELR take a training step wherever a classifier's own loss does? One config of MMPretrain's model zoo at a time.

``tools/zoo_coverage.py`` asks it of every image-classification config of the installed MMPretrain.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from pathlib import Path

import mmpretrain
import numpy as np
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from ..apis import apply_method, load_config

__all__ = ['Case', 'Outcome', 'prepare', 'take_steps', 'zoo_configs']

#: Sides in pixels at which a network is tried before its own input size, the smallest first.
SIDES = (64, 128, 224)

# Two samples, the least that BatchNorm takes over 1x1 maps, of a training set of five.
_SAMPLE_IDX, _NUM_SAMPLES = (4, 1), 5
# Layers kept of the networks whose weights and gradients, held twice, would need more than 6 GB.
_HUGE, _LAYERS = ('eva-g', 'h', 'huge'), 3


@dataclass
class Case:
    """A config of the zoo, ready to be built with its own loss and with ELR.

    Attributes:
        head (str): The own head's name.
        backbone (str): The backbone's name.
        own (dict): The model as the config has it, without batch augments.
        elr (dict): The same model after ``apply_method(cfg, 'elr')``.
        side (int): Height and width of the config's training images.
        augments (bool): Batch augments that mix labels were removed.
    """

    head: str
    backbone: str
    own: dict
    elr: dict
    side: int
    augments: bool


@dataclass
class Outcome:
    """What happened to a case.

    Attributes:
        own (str): ``'ok'``, or why a step with the own loss fails.
        elr (str): ``'ok'``, or why the steps with ELR fail.
        side (int): Height and width of the images it was tried on.
        layers (bool): Layers were left out.
        parameters (int): Of the network that was tried.
        loss (float, optional): The own loss.
        loss_cls (float, optional): ELR's first term on the same batch, from the same weights.
        loss_elr (tuple[float], optional): ELR's second term in both steps.
    """

    own: str
    elr: str
    side: int
    layers: bool
    parameters: int = 0
    loss: float | None = None
    loss_cls: float | None = None
    loss_elr: tuple[float, ...] | None = None


def zoo_configs() -> list[str]:
    """The image-classification configs that MMPretrain's model index lists, each once, as ``FOLDER/NAME.py``."""
    root = Path(mmpretrain.__file__).parent / '.mim'
    names = {}
    for metafile in yaml.safe_load((root / 'model-index.yml').read_text())['Import']:
        for model in yaml.safe_load((root / metafile).read_text()).get('Models', []):
            tasks = {result.get('Task') for result in model.get('Results') or []}
            if 'Image Classification' in tasks and model.get('Config'):
                names[model['Config'].removeprefix('configs/')] = None
    return list(names)


def prepare(name: str) -> Case | None:
    """Read a config and convert it, as a user would.

    Args:
        name (str): As :func:`zoo_configs` names it.

    Returns:
        Case | None: None if the model is no ``ImageClassifier``.
    """
    cfg = load_config(f'mmpretrain::{name}')
    kind = MODELS.get(cfg.model.type)
    if kind is None or not issubclass(kind, ImageClassifier):
        return None
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor') or {})  # as the runner does
    augments = bool(cfg.model.get('train_cfg') or cfg.model.data_preprocessor.get('batch_augments'))
    if augments:
        cfg.model.train_cfg = cfg.model.data_preprocessor.batch_augments = None
        if (cfg.model.head.get('loss') or {}).get('use_sigmoid'):
            cfg.model.data_preprocessor.to_onehot = True  # which the augments brought, and binary cross entropy needs
    elr = apply_method(cfg, 'elr').model.to_dict()
    return Case(cfg.model.head.type, cfg.model.backbone.type, cfg.model.to_dict(), elr, _side(cfg), augments)


def take_steps(case: Case, sides: tuple[int, ...] = SIDES) -> Outcome:
    """Train one step with the own loss, and from the same weights on the same batch two with ELR.

    Synthetic uint8 images go through the model's data preprocessor and MMEngine's ``train_step``. ELR's step must have
    the own loss as its first term, a second term in range, finite gradients, and a target memory of the right size that
    holds the averages of the batch's samples; its weights must load into the own model and the other way round.

    Args:
        case (Case): What to try.
        sides (tuple[int]): Image sizes to try first. The first at which the own loss takes a step is used, or else the
            config's own.

    Returns:
        Outcome: What happened.
    """
    layers = _drop_layers(case.own['backbone'])
    sides = [*(s for s in sorted(sides) if s < case.side), case.side]
    for side in sides:
        outcome = Outcome('ok', 'ok', side, layers is not None)
        own, elr = (_resized(model, side, case.side, layers) for model in (case.own, case.elr))
        try:
            own = _build(own)
            outcome.parameters = sum(p.numel() for p in own.parameters())
            weights = copy.deepcopy(own.state_dict())
            outcome.loss = _step(own, side)['loss']
        except Exception as error:  # whatever it is, it is the finding
            outcome.own = _reason(error)
        if outcome.own == 'ok':
            break
    try:
        elr = _build(elr)
        if outcome.own == 'ok':
            elr.load_state_dict(weights)
            del weights
        first = _step(elr, side)
        outcome.loss_cls = first['loss_cls']
        _expect(outcome.own != 'ok' or np.isclose(outcome.loss_cls, outcome.loss, rtol=1e-5), 'another loss_cls')
        outcome.loss_elr = first['loss_elr'], _step(elr, side)['loss_elr']
        _check_elr(elr, outcome.loss_elr)
        if isinstance(own, nn.Module):
            state = elr.state_dict()
            del state['head.memory.t']
            own.load_state_dict(state)
    except Exception as error:
        outcome.elr = _reason(error)
    return outcome


def _check_elr(model: ImageClassifier, loss_elr: tuple[float, ...]) -> None:
    lowest = model.head.lam * np.log(1e-4) * (2 if 'Conformer' in model.head.base else 1)
    _expect(all(lowest <= value <= 0 for value in loss_elr), f'loss_elr is {loss_elr}')
    t, classes = model.head.memory.t, model.data_preprocessor.num_classes
    _expect(t.shape == (_NUM_SAMPLES, classes), f'the memory is {tuple(t.shape)}')
    expected = torch.zeros(_NUM_SAMPLES).index_fill_(0, torch.tensor(_SAMPLE_IDX), 1 - model.head.beta ** len(loss_elr))
    _expect(torch.allclose(t.sum(dim=1), expected, atol=1e-5), f'rows of the memory sum to {t.sum(dim=1).tolist()}')


class _CheckedSGD(torch.optim.SGD):
    """Looks at the gradients before MMEngine clears them."""

    def step(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group['params'] if p.grad is not None]
        _expect(gradients, 'no gradient')
        _expect(all(g.isfinite().all() for g in gradients), 'a gradient is not finite')
        return super().step(closure)


def _step(model: ImageClassifier, side: int) -> dict[str, float]:
    """MMEngine's training step. The same images, labels and random numbers (dropout, ...) each time."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    labels = torch.randint(model.data_preprocessor.num_classes, (len(_SAMPLE_IDX),)).tolist()
    samples = [DataSample().set_gt_label(label) for label in labels]
    for sample, idx in zip(samples, _SAMPLE_IDX, strict=True):
        sample.set_metainfo(dict(sample_idx=idx, num_samples=_NUM_SAMPLES))
    inputs = [torch.randint(256, (3, side, side), dtype=torch.uint8) for _ in samples]
    optimizer = OptimWrapper(_CheckedSGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, foreach=False))
    losses = model.train_step(dict(inputs=inputs, data_samples=samples), optimizer)
    losses = {name: float(value) for name, value in losses.items()}
    _expect(np.isfinite(list(losses.values())).all(), f'the loss is {losses}')
    return losses


def _build(model: dict) -> ImageClassifier:
    # Never init_weights: it may download a checkpoint, and the layers come initialised.
    torch.manual_seed(0)
    return MODELS.build(copy.deepcopy(model)).train()


def _side(cfg: Config) -> int:
    """Image size of the training pipeline: the last crop or resize."""
    dataset = cfg.train_dataloader.dataset
    while 'pipeline' not in dataset:
        dataset = dataset.dataset
    for transform in reversed(dataset.pipeline):
        size = transform.get('crop_size', transform.get('scale'))
        if size is not None:
            return max(size) if isinstance(size, (tuple, list)) else size
    return cfg.model.backbone.get('img_size', 224)


def _resized(model: dict, side: int, own_side: int, layers: dict | None) -> dict:
    model = copy.deepcopy(model)
    if layers is not None:
        model['backbone']['arch'] = layers
    if side != own_side and 'img_size' in MODELS.get(model['backbone']['type']).__init__.__code__.co_varnames:
        model['backbone']['img_size'] = side
    return model


def _drop_layers(backbone: dict) -> dict | None:
    """The architecture with fewer layers if it is huge."""
    if backbone.get('arch') not in _HUGE:
        return None
    kind = MODELS.get(backbone['type'])
    arch = dict(getattr(kind, 'arch_zoo', None) or kind.arch_settings)[backbone['arch']]
    if 'depths' in arch:
        return {**arch, 'depths': [min(d, _LAYERS) for d in arch['depths']]}
    return {**arch, 'num_layers': _LAYERS}


def _expect(held: object, otherwise: str) -> None:
    if not held:
        raise AssertionError(otherwise)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ['']
    return f'{type(error).__name__}: {lines[0][:200]}'
