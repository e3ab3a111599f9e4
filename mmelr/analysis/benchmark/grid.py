"""The grid of a benchmark: data set x methods x variants x noises x seeds, and the config of each of its cells."""

from __future__ import annotations

import itertools
import json
import re
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmpretrain.registry import HOOKS

from ...apis import METHODS, apply_method
from ...apis.switch import file_name
from ...noise import parse_noise

__all__ = [
    'Cell',
    'cell_config',
    'differences',
    'fold_of',
    'idle_hooks',
    'make_grid',
    'parse_methods',
    'parse_noises',
    'parse_seeds',
    'variants',
]

#: For asymmetric noise that names no mapping: which class is mistaken for which, by how a data set's name begins.
_MAPPINGS = {'digits': 'mnist', 'fashion_mnist': 'next', 'cifar100': 'cifar100', 'cifar10': 'cifar10'}
#: Share of the noisy training data that is held out for model selection where the config holds nothing out by itself.
HELD_OUT = 0.1


@dataclass(frozen=True)
class Cell:
    """One training run of the grid.

    Attributes:
        method (str): One of ``mmelr.METHODS``.
        options (tuple[str, ...]): What is varied, ``KEY=VALUE`` each.
        noise (str): As on the command line, without a seed.
        seed (int): Of the noise, the held-out part and the training.
    """

    method: str
    options: tuple[str, ...]
    noise: str
    seed: int

    @property
    def row(self) -> tuple[str, ...]:
        """tuple[str, ...]: Method and options: what seeds are averaged for."""
        return (self.method, *self.options)

    @property
    def folder(self) -> Path:
        """Path: Where it is run, relative to the work directory."""
        parts = (','.join([file_name(self.method), *self.options]), self.noise, f'seed-{self.seed}')
        return Path(*(re.sub(r'[^\w.,=+-]', '_', part) for part in parts))

    def __str__(self) -> str:
        return f'{" ".join(self.row)}  {self.noise}  seed {self.seed}'


def make_grid(
    methods: Sequence[str], options: Sequence[tuple], noises: Sequence[str], seeds: Sequence[int]
) -> list[Cell]:
    """All cells, each once, those of the first seed first: so that there is soon a first impression of everything."""
    grid = [Cell(*cell) for cell in itertools.product(methods, options, noises, seeds)]
    return sorted(dict.fromkeys(grid), key=lambda cell: seeds.index(cell.seed))


def parse_methods(text: str) -> list[str]:
    """Methods from ``all`` or ``NAME,NAME,...``.

    Raises:
        ValueError: An unknown one.
    """
    names = list(METHODS) if text == 'all' else list(dict.fromkeys(text.split(',')))
    for name in names:
        if name not in METHODS:
            raise ValueError(f'--methods: unknown method {name!r}; known are all, {", ".join(METHODS)}.')
    return names


def parse_noises(texts: Iterable[str], dataset: str) -> list[str]:
    """Noises from ``SPEC,SPEC,...``, where a SPEC may have commas in it too: ``asymmetric:0.4,mapping=next``.

    Args:
        texts (Iterable[str]): As on the command line.
        dataset (str): Name of the data set, for the mapping of asymmetric noise that has none.

    Returns:
        list[str]: Each as :func:`mmelr.noise.parse_noise` takes it, without a seed.

    Raises:
        ValueError: One that is not understood, or that has a seed.
    """
    noises = [spec for text in texts for spec in re.split(r',(?=[a-z]+:|none(?:,|$))', text)]
    for i, noise in enumerate(noises):
        if 'seed=' in noise:
            raise ValueError(f'--noise {noise}: leave the seed out; every cell draws its noise from its own.')
        mapping = next((m for name, m in _MAPPINGS.items() if re.match(f'{name}(_|$)', dataset)), None)
        if noise.startswith('asymmetric:') and 'mapping=' not in noise and mapping:
            noises[i] = f'{noise},mapping={mapping}'
        parsed = parse_noise(noises[i]) or {}
        file = parsed.get('path', parsed.get('matrix'))
        if isinstance(file, str | Path) and not Path(file).is_file():  # said once, and not by every run
            raise FileNotFoundError(f'--noise {noise}: there is no file {file}.')
    return list(dict.fromkeys(noises))


def parse_seeds(text: str) -> list[int]:
    """Seeds from a number of them, ``5`` for 0 to 4, or from a list, which has a comma: ``3,4`` or ``3,``.

    Raises:
        ValueError: Anything else.
    """
    if not re.fullmatch(r'[1-9]\d*|(\d+,)+\d*', text) or (',' not in text and int(text) > 1000):
        raise ValueError(
            f'--seeds takes a number of seeds, as in 5 for 0 to 4, or a list as in 3,4 or 3, but is {text!r}.'
        )
    return list(dict.fromkeys(map(int, text.strip(',').split(',')))) if ',' in text else list(range(int(text)))


def variants(vary: Iterable[str]) -> list[tuple[str, ...]]:
    """All combinations of the values of ``KEY=V1,V2,...``, each as ``KEY=VALUE``; an empty value leaves the key out.

    A comma inside of brackets belongs to its value: ``KEY=[1,2],[3,4]`` has two.

    Raises:
        ValueError: An option without a key or ``=``.
    """
    vary = list(vary)
    for option in vary:
        key, _, values = option.partition('=')
        if not key or not values:
            raise ValueError(f'--vary takes KEY=VALUE,VALUE,..., got {option}.')
    choices = [(key, _split(values)) for key, _, values in (option.partition('=') for option in vary)]
    return [
        tuple(f'{key}={v}' for (key, _), v in zip(choices, values, strict=True) if v)
        for values in itertools.product(*(values for _, values in choices))
    ]


def _split(values: str) -> list[str]:
    """Split at the commas that are in no brackets."""
    parts, depth = [''], 0
    for c in values:
        depth += (c in '([') - (c in ')]')
        if c == ',' and not depth:
            parts.append('')
        else:
            parts[-1] += c
    return parts


def cell_config(
    dataset: str, cell: Cell, configs: Path, hold_out: float | None = None, options: Sequence[str] = ()
) -> Config:
    """The config of a cell: that of its method, data set and kind of noise, so with their published values.

    It is ``METHOD_DATASET_sym.py`` or ``METHOD_DATASET_asym.py``, or ``METHOD_DATASET.py``, or that of cross entropy
    with the method applied to it.

    Args:
        dataset (str): Name of a data set, as in the names of the configs, or a config for :func:`mmelr.load_config`.
        cell (Cell): The cell.
        configs (Path): Folder of the configs.
        hold_out (float, optional): Share of the noisy training data to hold out for model selection, 0 or 1/N, where
            the config does not hold out a part by itself. Defaults to a tenth.
        options (Sequence[str]): ``KEY=VALUE`` for every cell, as ``--cfg-options`` of ``tools/train.py``.

    Returns:
        Config: The config, without a work directory.

    Raises:
        FileNotFoundError: No config of that data set.
        ValueError: Noise, a share or a config that does not fit.
    """
    cfg = _method_config(dataset, cell, configs)
    given = [*cell.options, *options]
    for option in given:
        if not re.match('[^=]+=', option):
            raise ValueError(f'--cfg-options takes KEY=VALUE, got {option}.')
    if given:
        parser = ArgumentParser()
        parser.add_argument('--options', nargs='+', action=DictAction)
        cfg.merge_from_dict(parser.parse_args(['--options', *given]).options)
    if 'max_epochs' not in (cfg.get('train_cfg') or {}):
        raise ValueError(f'The benchmark trains for epochs, but {dataset} has train_cfg={cfg.get("train_cfg")}.')
    _hold_out(cfg, hold_out, cell.seed)
    noise = cell.noise if cell.noise.startswith(('file:', 'none')) else f'{cell.noise},seed={cell.seed}'
    cfg = apply_method(cfg, noise=noise)
    if any(option.startswith('randomness.seed=') for option in given):
        raise ValueError('randomness.seed is the seed of each cell: choose it by --seeds.')
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=cell.seed)
    return cfg


def idle_hooks(cfg: Config) -> list[str]:
    """What a run does without because it is too short: the estimate of T, or the truncation.

    Args:
        cfg (Config): From :func:`cell_config`.

    Returns:
        list[str]: A sentence for each.
    """
    epochs, found = cfg.train_cfg.max_epochs, []
    for hook in cfg.get('custom_hooks') or []:
        if hook['type'] == 'TransitionHook' and hook.get('source') == 'estimated':
            first, loss = HOOKS.build(hook).warm_up, 'cross entropy'
        elif hook['type'] == 'TruncationHook':
            first, loss = HOOKS.build(hook).start, 'plain GCE'
        else:
            continue
        if first >= epochs:
            found.append(f'{hook["type"]} acts first after {first} epochs, and a run has {epochs}: this is {loss}.')
    return found


def _method_config(dataset: str, cell: Cell, configs: Path) -> Config:
    if dataset.endswith('.py') or '::' in dataset:
        return apply_method(dataset, cell.method)
    kinds = ('_asym' if cell.noise.startswith('asymmetric:') else '_sym', '')
    for method in (cell.method, 'ce'):
        for kind in kinds:
            file = configs / f'{file_name(method)}_{dataset}{kind}.py'
            if file.is_file():
                return apply_method(str(file), None if method == cell.method else cell.method)
    known = sorted({re.sub('_a?sym$', '', file.stem[3:]) for file in configs.glob('ce_*.py')})
    raise FileNotFoundError(
        f'--dataset {dataset}: there is no {configs}/ce_{dataset}.py. Known are {", ".join(known)}; or name a config '
        'file.'
    )


def _hold_out(cfg: Config, share: float | None, seed: int) -> None:
    """Validate on a part of the noisy training data, which is not trained on; or not at all."""
    train, val = cfg.train_dataloader, cfg.get('val_dataloader')
    if cfg.get('test_dataloader') is None:
        raise ValueError('The config has no test_dataloader, on which the benchmark measures.')
    if val is not None and val.dataset.type == 'NoisyLabelDataset':
        if share is not None:
            raise ValueError(
                f'--hold-out {share:g}: the config holds out a part of the training data by itself. Leave the '
                'option out, or change train_dataloader.dataset and val_dataloader.dataset of the config.'
            )
        return
    share = HELD_OUT if share is None else share
    if share == 0:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
        return
    splits = round(1 / share) if 0 < share <= 0.5 else 0
    if not splits or abs(share * splits - 1) > 1e-6:
        raise ValueError(f'--hold-out is 0 or one part of N, as 0.1, 0.2 or 0.5, but is {share:g}.')
    # By random folds, for data may come in the order of the classes. NoisyLabelDataset knows the samples in them, so
    # that all keep the labels that they have in the whole.
    part = dict(num_splits=splits, fold=0, seed=seed)
    seen = _evaluated(train.dataset.dataset, _pipeline(cfg.test_dataloader.dataset))
    cfg.val_dataloader = ConfigDict(
        val or cfg.test_dataloader,
        dataset=ConfigDict(
            type='NoisyLabelDataset', dataset=fold_of(seen, part, test_mode=True), noise=train.dataset.get('noise')
        ),
    )
    cfg.val_evaluator = cfg.get('val_evaluator') or cfg.test_evaluator
    cfg.val_cfg = cfg.get('val_cfg') or dict()
    train.dataset.dataset = fold_of(train.dataset.dataset, part, test_mode=False)


def fold_of(dataset: dict, part: dict, test_mode: bool) -> ConfigDict:
    """A fold of a data set; ``InMemoryDataset`` has wrappers inside of it.

    Args:
        dataset (dict): Config of the data set.
        part (dict): ``num_splits`` and ``fold`` of ``KFoldDataset``, and its ``seed``.
        test_mode (bool): The fold itself, else all but the fold.

    Returns:
        ConfigDict: Config of the part.
    """
    part = dict(part, test_mode=test_mode)
    if dataset['type'] != 'InMemoryDataset':
        return ConfigDict(type='KFoldDataset', dataset=dataset, **part)
    inside = ConfigDict(dataset, type=dataset['base'])
    del inside['base']
    return ConfigDict(type='InMemoryDataset', base='KFoldDataset', dataset=inside, **part)


def _pipeline(dataset: dict) -> list | None:
    """The pipeline of a data set, or of the one that it wraps."""
    return dataset.get('pipeline', _pipeline(dataset['dataset']) if 'dataset' in dataset else None)


def _evaluated(dataset: dict, pipeline: list | None) -> ConfigDict:
    """A training set with the pipeline of evaluation."""
    changed = ConfigDict(dataset)
    if 'dataset' in dataset:
        changed.dataset = _evaluated(dataset['dataset'], pipeline)
    if 'pipeline' in dataset and pipeline is not None:
        changed.pipeline = pipeline
    return changed


def differences(then: dict, now: dict, prefix: str = '') -> list[str]:
    """What two configs, as JSON has them, differ in: ``train_cfg.max_epochs was 50 and is 3``."""
    found = []
    for key in dict.fromkeys([*then, *now]):
        a, b = then.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f'{prefix}{key}.')
        elif a != b:
            found.append(f'{prefix}{key} was {json.dumps(a)} and is {json.dumps(b)}')
    return found
