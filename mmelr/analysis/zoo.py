"""Do ELR and ELR+ take a training step wherever a classifier's own loss does? One config of MMPretrain's zoo at a time.

``tools/zoo_coverage.py`` asks it of every image-classification config of the installed MMPretrain.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import mmpretrain
import numpy as np
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import BATCH_AUGMENTS, MODELS
from mmpretrain.structures import DataSample
from torch import nn

from ..apis import apply_method
from ..models import CoTrainingClassifier, ELRMixup
from ..models.mixup import Pairing

__all__ = ['Case', 'Outcome', 'prepare', 'reason', 'take_steps', 'zoo_configs']

# Two samples, the least that BatchNorm takes over 1x1 maps, of a training set of five.
_SAMPLE_IDX, _NUM_SAMPLES = (4, 1), 5
# Layers kept, per stage, in networks that would need more bytes than this: for the own model, the method's (with ELR+
# two networks and two averages) and one set of gradients. Also in those that take no smaller images than this.
_LAYERS, _BYTES, _LARGE = 3, 7e9, 384
_COPIES = {'elr': 3, 'elr+': 6}


@dataclass
class Case:
    """A config of the zoo, ready to be built with its own loss and with ELR or ELR+.

    Attributes:
        method (str): ``'elr'`` or ``'elr+'``.
        own (dict): The model as the config has it, without its batch augments; for ELR+ ``FixedMixup`` is the one
            batch augment.
        elr (dict): The same model after ``apply_method(cfg, method)``, for ELR+ with that mixup.
        side (int): Height and width of the config's training images.
        num_classes (int): Its classes.
        augments (bool): Batch augments that mix labels, which ELR refuses, were removed.
        onehot (bool): The one-hot labels that these bring were kept, because the own loss needs them.
    """

    method: str
    own: dict
    elr: dict
    side: int
    num_classes: int
    augments: bool
    onehot: bool


@dataclass
class Outcome:
    """What happened to a case.

    Attributes:
        own (str): ``'ok'``, or why a step with the own loss fails.
        elr (str): ``'ok'``, or why the steps with ELR or ELR+ fail.
        side (int): Height and width of the images it was tried on.
        fewer_layers (bool): Layers were left out.
        parameters (int): Of the network that was tried.
        loss (float, optional): The own loss.
        loss_cls (float, optional): ELR's first term on the same batch, from the same weights; ELR+'s of network 1.
        loss_elr (tuple[float], optional): ELR's second term in both steps, ELR+'s of both networks.
    """

    own: str
    elr: str
    side: int
    fewer_layers: bool = False
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


@BATCH_AUGMENTS.register_module()
class FixedMixup(ELRMixup):
    """Mixes a quarter of the neighbour into each sample, and starts the random numbers (dropout, ...) anew.

    So the own loss and both networks of ELR+ see one and the same batch, whatever was drawn before.
    """

    def draw(self, batch_size: int) -> Pairing:
        """The pairing of a batch of this size."""
        _seed()
        return Pairing(0.75, torch.arange(batch_size).roll(1))


def prepare(cfg: Config, method: str = 'elr') -> Case:
    """Convert a config with an ``ImageClassifier``, as a user would.

    Args:
        cfg (Config): The config, which stays as it is.
        method (str): ``'elr'`` or ``'elr+'``. Defaults to ``'elr'``.

    Returns:
        Case: The model with both losses.
    """
    cfg = copy.deepcopy(cfg)
    model = cfg.model
    model.setdefault('data_preprocessor', cfg.get('data_preprocessor') or {})  # as the runner does
    augments = bool(model.get('train_cfg') or model.data_preprocessor.get('batch_augments'))
    onehot = augments and (model.head.get('loss') or {}).get('use_sigmoid', False)
    if augments:
        model.train_cfg = model.data_preprocessor.batch_augments = None
    if onehot:
        model.data_preprocessor.to_onehot = True
    num_classes = next(part.num_classes for part in (model.data_preprocessor, model.head) if part.get('num_classes'))
    own, elr = model.to_dict(), apply_method(cfg, method).model.to_dict()
    if method == 'elr+':
        elr['mixup'] = dict(type='FixedMixup')
        own['data_preprocessor'].update(batch_augments=dict(augments=elr['mixup']), num_classes=num_classes)
    return Case(method, own, elr, _side(cfg), num_classes, augments, onehot)


def take_steps(case: Case, side: int | None = None) -> Outcome:
    """Train one step with the own loss, and from the same weights on the same batch two with ELR, or one with ELR+.

    Synthetic uint8 images go through the model's data preprocessor and MMEngine's ``train_step``. ELR passes if its
    first term is the own loss, its second term is at most 0, every gradient is finite, the target memory has the right
    size and holds the averages of the batch's samples and of no others, and its weights have the names, shapes and
    values of the own model's when they are loaded in either direction.

    ELR+ passes if all this holds for both of its networks (network 1 alone starts from the own model's weights, so
    only its first term is compared, under the same mixup), if no gradient reaches the weight averages, the step takes
    each network away from its average, ``update_average`` with γ = 0 makes them equal again, and if the prediction is
    by the mean of both networks' logits.

    Args:
        case (Case): What to try.
        side (int, optional): Image size to try first, if it is smaller than the config's. If the own loss takes no
            step at it (some networks are made for one size), the config's is used.

    Returns:
        Outcome: What happened.
    """
    for tried in [side, case.side] if side is not None and side < case.side else [case.side]:
        layers = _fewer_layers(case.own['backbone']) if tried >= _LARGE else None
        outcome = Outcome('ok', 'ok', tried)
        own = elr = None
        try:
            own = _build(case, case.own, tried, layers)
            if layers is None and _size(own) * 4 * _COPIES[case.method] > _BYTES:
                layers = _fewer_layers(case.own['backbone'])
                own = own if layers is None else _build(case, case.own, tried, layers)
            outcome.fewer_layers = layers is not None
            outcome.parameters = _size(own)
            elr = _build(case, case.elr, tried, layers)
            _load(_networks(elr)[0], own)
        except Exception as error:  # whatever it is, it is the finding
            outcome.elr = reason(error)
            if own is None:
                outcome.own = outcome.elr
                continue
        try:
            outcome.loss = _step(own, case, tried)['loss']
        except Exception as error:
            outcome.own = reason(error)
        else:
            break
    if outcome.elr == 'ok':
        try:
            _elr_steps(elr, case, outcome)
            for network in _networks(elr):
                _load(own, network)
        except Exception as error:
            outcome.elr = reason(error)
    return outcome


def reason(error: Exception) -> str:
    """An exception in one line, without this machine's paths."""
    text = ' '.join(str(error).replace(str(Path(mmpretrain.__file__).parents[1]), '').split())
    return f'{type(error).__name__}: {text}'[:240]


def _elr_steps(model: nn.Module, case: Case, outcome: Outcome) -> None:
    if case.method == 'elr+':
        model.start_averages()
        losses = _step(model, case, outcome.side)
        terms = [(losses[f'{name}.loss_cls'], losses[f'{name}.loss_elr']) for name in model.network_names]
    else:
        steps = [_step(model, case, outcome.side) for _ in range(2)]
        terms = [(losses['loss_cls'], losses['loss_elr']) for losses in steps]
    outcome.loss_cls, outcome.loss_elr = terms[0][0], tuple(loss_elr for _, loss_elr in terms)
    same = outcome.loss is None or np.isclose(outcome.loss_cls, outcome.loss, rtol=1e-5)
    _expect(same, f'loss_cls is {outcome.loss_cls}, the own loss {outcome.loss}')
    _expect(max(outcome.loss_elr) <= 0, f'loss_elr is {outcome.loss_elr}')
    for network in _networks(model):
        t = network.head.memory.t
        _expect(t.shape == (_NUM_SAMPLES, case.num_classes), f'the memory is {tuple(t.shape)}')
        sums = torch.zeros(_NUM_SAMPLES)
        sums[list(_SAMPLE_IDX)] = 1 - network.head.beta ** (1 if case.method == 'elr+' else 2)  # by number of visits
        _expect(torch.allclose(t.sum(dim=1), sums, atol=1e-5), f'rows of the memory sum to {t.sum(dim=1).tolist()}')
    if case.method == 'elr+':
        _check_averages(model)
        _check_prediction(model, case, outcome.side)


def _check_averages(model: CoTrainingClassifier) -> None:
    for name, network, average in zip(model.network_names, model.networks, model.averages, strict=True):
        pairs = list(zip(network.parameters(), average.parameters(), strict=True))
        _expect(all(a.grad is None for _, a in pairs), f'a gradient reached the weight average of {name}')
        _expect(not all(torch.equal(*pair) for pair in pairs), f'after its step {name} is still its weight average')
        model.update_average(name, 0)
        _expect(all(torch.equal(*pair) for pair in pairs), f'the weight average of {name} does not follow it')


@torch.no_grad()
def _check_prediction(model: CoTrainingClassifier, case: Case, side: int) -> None:
    model.eval()
    data = model.data_preprocessor(_batch(case, side), False)
    logits = []
    for network in model.networks:
        feats = network.extract_feat(data['inputs'])
        branches = network.head(feats)
        logits.append(sum(branches) if isinstance(branches, tuple) else branches)
        alone = _scores(network.head.predict(feats))
        _expect(torch.allclose(alone, logits[-1].softmax(dim=1)), 'a network does not predict by its logits')
    expected = (sum(logits) / len(logits)).softmax(dim=1)
    found = _scores(model(**data, mode='predict'))
    _expect(torch.allclose(found, expected, rtol=1e-4), 'the prediction is not by the mean of the logits')


def _scores(samples: list[DataSample]) -> torch.Tensor:
    return torch.stack([sample.pred_score for sample in samples])


def _networks(model: nn.Module) -> list[ImageClassifier]:
    return model.networks if isinstance(model, CoTrainingClassifier) else [model]


def _load(target: ImageClassifier, source: ImageClassifier) -> None:
    # Not strict: SwinTransformerV2 drops some of its own buffers when it loads. So compare what came of it.
    unexpected = target.load_state_dict(source.state_dict(), strict=False).unexpected_keys
    _expect(set(unexpected) <= {'head.memory.t'}, f'unexpected weights {unexpected[:3]}')
    loaded, weights = (
        {key: value for key, value in m.state_dict().items() if key != 'head.memory.t'} for m in (target, source)
    )
    _expect(loaded.keys() == weights.keys(), f'other weights: {sorted(loaded.keys() ^ weights.keys())[:3]}')
    differ = [key for key in weights if not torch.equal(loaded[key], weights[key])]
    _expect(not differ, f'weights that were not loaded: {differ[:3]}')


class _CheckedSGD(torch.optim.SGD):
    """Looks at the gradients before MMEngine clears them."""

    def step(self, closure=None):
        gradients = [p.grad for group in self.param_groups for p in group['params'] if p.grad is not None]
        _expect(gradients, 'no gradient')
        _expect(all(g.isfinite().all() for g in gradients), 'a gradient is not finite')
        return super().step(closure)


def _step(model: nn.Module, case: Case, side: int) -> dict[str, float]:
    """MMEngine's training step. The same images, labels and random numbers each time."""
    if isinstance(model, CoTrainingClassifier):
        wrapper = OptimWrapperDict(**{name: _wrapper(getattr(model, name)) for name in model.network_names})
    else:
        wrapper = _wrapper(model)
    losses = {name: value.item() for name, value in model.train_step(_batch(case, side), wrapper).items()}
    _expect(np.isfinite(list(losses.values())).all(), f'the loss is {losses}')
    return losses


def _wrapper(network: ImageClassifier) -> OptimWrapper:
    return OptimWrapper(_CheckedSGD([p for p in network.parameters() if p.requires_grad], lr=1e-6, foreach=False))


def _batch(case: Case, side: int) -> dict:
    _seed()
    samples = [
        DataSample(metainfo=dict(sample_idx=idx, num_samples=_NUM_SAMPLES)).set_gt_label(label)
        for idx, label in zip(_SAMPLE_IDX, torch.randint(case.num_classes, (len(_SAMPLE_IDX),)).tolist(), strict=True)
    ]
    return dict(inputs=[torch.randint(256, (3, side, side), dtype=torch.uint8) for _ in samples], data_samples=samples)


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def _build(case: Case, model: dict, side: int, layers: dict | None) -> nn.Module:
    model = copy.deepcopy(model)
    backbone = model.get('network', model)['backbone']
    if layers is not None:
        backbone['arch'] = layers
    made_for = signature(MODELS.get(backbone['type'])).parameters.get('img_size')
    if made_for is not None and side != case.side:
        pair = isinstance(backbone.get('img_size', made_for.default), (tuple, list))
        backbone['img_size'] = (side, side) if pair else side
    torch.manual_seed(0)
    return MODELS.build(model).train()  # never init_weights: it may download a checkpoint, and layers come initialised


def _side(cfg: Config) -> int:
    """Image size of the training pipeline: the last crop or resize."""
    dataset = cfg.train_dataloader.dataset
    while 'pipeline' not in dataset:
        dataset = dataset.dataset
    for transform in reversed(dataset.pipeline):
        size = transform.get('crop_size', transform.get('scale'))
        if size is not None:
            return max(size) if isinstance(size, (tuple, list)) else size
    return 224


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _fewer_layers(backbone: dict) -> dict | None:
    """The architecture with fewer layers, if it says how many there are."""
    kind, name = MODELS.get(backbone['type']), backbone.get('arch')
    table = getattr(kind, 'arch_zoo', None) or getattr(kind, 'arch_settings', {})
    arch = table.get(name) if isinstance(name, str) else None
    if not isinstance(arch, dict):
        return None
    for key in ('depths', 'layers'):
        if key in arch:
            return {**arch, key: [min(depth, _LAYERS) for depth in arch[key]]}
    return {**arch, 'num_layers': _LAYERS} if 'num_layers' in arch else None


def _expect(held: object, otherwise: str) -> None:
    if not held:
        raise AssertionError(otherwise)
