"""One switch for any config: which method trains it, on which noise."""

from __future__ import annotations

import copy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..noise import parse_noise
from ..registry import build_noise
from .baselines import BASELINE_OPTIONS, BASELINES, use_loss, use_own_loss
from .elr import (
    ELR_OPTIONS,
    PLUS_OPTIONS,
    STAR_OPTIONS,
    base_head,
    use_co_training,
    use_elr,
    use_one_network,
    use_own_schedule,
    use_restarts,
)
from .loading import load_config
from .parts import kind_of

__all__ = ['METHODS', 'OPTIONS', 'apply_method']

#: Training methods that :func:`apply_method` knows.
METHODS = ('ce', *BASELINES, 'elr', 'elr*', 'elr+')
#: The options of each.
OPTIONS = BASELINE_OPTIONS | {
    'ce': (),
    'elr': ELR_OPTIONS,
    'elr*': ELR_OPTIONS + STAR_OPTIONS,
    'elr+': ELR_OPTIONS + PLUS_OPTIONS,
}

_HOOKS = ('NoiseRecordHook', 'ExactResumeHook', 'MemorizationHook', 'TargetMemoryHook', 'PaddingHook')


def file_name(method: str) -> str:
    """A method's name as it stands in the names of configs and folders: ``elr_plus``."""
    return method.replace('-', '_').replace('*', '_star').replace('+', '_plus')


def apply_method(
    cfg: Config | dict | str, method: str | None = None, noise: str | dict | None = None, **options
) -> Config:
    """Turn the config of any single-label classifier into one that trains it with a given method.

    The training dataset is wrapped in ``NoisyLabelDataset``, the head or its loss becomes the method's, and mmelr's
    hooks are added; for ELR+ the model becomes the network of a ``CoTrainingClassifier``. The network's architecture,
    its data pipeline, schedule (but for ELR*) and metrics stay as they are, and so does ``cfg`` itself. Applying a
    method to a config of another one replaces that; applying it to one of the same changes the options given.

    What a method takes out of the config, the head's own loss or the schedule, is kept in it as ``replaced``, and
    comes back with the next method that has no other.

    Args:
        cfg (Config | dict | str): A training config with an ``ImageClassifier``, or the name of one for
            :func:`load_config`.
        method (str, optional): One of ``METHODS``: ``'ce'``, the head's own loss; a baseline, which puts its loss in
            the place of that; ``'elr'``, ``'elr*'`` or ``'elr+'``. None keeps the method.
        noise (str | dict, optional): Noise to put on the training labels: a dict, or text as on the command line
            (``'symmetric:0.4'``, see :func:`mmelr.noise.parse_noise`). None keeps what the config says, which is
            the labels as given where it says nothing; ``'none'`` is the labels as given.
        **options: What the method has, and no other:

            - ``'bootstrap-soft'``, ``'bootstrap-hard'``: ``beta`` of ``BootstrapLoss``.
            - ``'forward'``, ``'backward'``: ``transition``, a .npy, .csv or .txt file of the matrix T; None for that of
              the noise in use. See ``TransitionHook``.
            - ``'forward-estimated'``: ``warm_up`` and ``quantile`` of ``TransitionHook``.
            - ``'gce'``: ``q`` of ``GCELoss``. ``'gce-truncated'``: ``q`` and ``k`` of ``TruncatedGCELoss``, ``start``
              and ``interval`` of ``TruncationHook``.
            - ``'sl'``: ``alpha``, ``beta`` and ``log_zero`` of ``SCELoss``.
            - ``'elr'``, ``'elr*'`` and ``'elr+'``: ``beta``, ``lam``, ``memory_dtype``, ``memory_storage`` and
              ``memory_top_k`` (see ``ELRHead``).
            - ``'elr*'`` also ``T_0``, epochs from one restart to the next. It replaces the schedule by cosine annealing
              from each learning rate to a twentieth of it; the number of epochs stays.
            - ``'elr+'`` also ``num_networks`` and ``teacher`` (see ``CoTrainingClassifier``), ``alpha`` of
              ``ELRMixup``, 0 for no mixup, ``gamma`` of ``ELREMAHook`` and ``schedule`` of ``CoTrainingRunner``.

    Returns:
        Config: A new config.

    Raises:
        ValueError: An unknown method, or a value outside its range.
        TypeError: A model or head that the method makes no sense for, or an unknown option.
    """
    cfg = load_config(cfg) if isinstance(cfg, (str, Path)) else copy.deepcopy(cfg)
    cfg = Config(cfg) if isinstance(cfg, dict) else cfg
    if method not in (*METHODS, None):
        raise ValueError(f'Unknown method {method!r}; known are {", ".join(METHODS)}.')
    known = OPTIONS.get(method, ())
    unknown = set(options) - set(known)
    if unknown:
        raise TypeError(
            f'Method {method!r} has no option {", ".join(sorted(unknown))}'
            + (f'; it has {", ".join(known)}.' if known else '.')
        )
    if cfg.get('model') is None or cfg.get('train_dataloader') is None:
        raise TypeError('This config has no model or no train_dataloader: it does not train a classifier.')
    if method is not None:
        _use_method(cfg, method, options)
    _wrap_dataset(cfg, noise)
    _add_runtime(cfg)
    return cfg


def _use_method(cfg: Config, method: str, options: dict) -> None:
    """Change a config to a method, in place."""
    if method != 'elr+' and kind_of(cfg.model) == 'CoTrainingClassifier':
        use_one_network(cfg)
    if (method in BASELINES or method == 'ce') and kind_of(cfg.model.get('head') or {}) == 'ELRHead':
        cfg.model.head = base_head(cfg.model.head)
    if method in BASELINES:
        use_loss(cfg, method, **options)
    else:
        use_own_loss(cfg)
    if method != 'elr*':
        use_own_schedule(cfg)
    if method in ('elr', 'elr*', 'elr+'):
        use_elr(cfg, **{k: v for k, v in options.items() if k in ELR_OPTIONS})
    if method == 'elr*':
        use_restarts(cfg, **{k: v for k, v in options.items() if k in STAR_OPTIONS})
    if method == 'elr+':
        use_co_training(cfg, **{k: v for k, v in options.items() if k in PLUS_OPTIONS})


def _wrap_dataset(cfg: Config, noise: str | dict | None) -> None:
    loader = cfg.train_dataloader
    if kind_of(loader.dataset) != 'NoisyLabelDataset':
        loader.dataset = ConfigDict(type='NoisyLabelDataset', dataset=loader.dataset, noise=None)
    if noise is None:
        return
    if not isinstance(noise, (str, dict)):
        raise TypeError(f"noise must be text like 'symmetric:0.4' or a dict with a type, got {noise!r}.")
    noise = parse_noise(noise) if isinstance(noise, str) else noise
    if noise is not None:
        build_noise(noise)  # a rate out of range is refused now, not after the data is loaded
    loader.dataset.noise = noise
    held_out = (cfg.get('val_dataloader') or {}).get('dataset', {})
    if kind_of(held_out) == 'NoisyLabelDataset':  # a part of the training set, as noisy as the rest, to select by
        held_out.noise = noise


def _add_runtime(cfg: Config) -> None:
    imports = cfg.get('custom_imports') or ConfigDict(imports=[], allow_failed_imports=False)
    names = [imports['imports']] if isinstance(imports['imports'], str) else list(imports['imports'])
    cfg.custom_imports = ConfigDict(imports) | {'imports': names + ['mmelr'] * ('mmelr' not in names)}
    cfg.default_scope = cfg.get('default_scope') or 'mmpretrain'
    defaults = cfg.setdefault('default_hooks', ConfigDict())
    saving = defaults.setdefault('checkpoint', ConfigDict(type='CheckpointHook', interval=1))  # as MMEngine adds it
    if saving is not None and kind_of(saving) == 'CheckpointHook':
        saving.type = 'DurableCheckpointHook'
    logger = defaults.setdefault('logger', ConfigDict(type='LoggerHook'))  # likewise
    if logger is not None and kind_of(logger) == 'LoggerHook':
        logger.type = 'LiveLoggerHook'
    hooks = list(cfg.get('custom_hooks') or [])
    present = {kind_of(h) for h in hooks}
    cfg.custom_hooks = hooks + [
        ConfigDict(type=name)
        for name in _HOOKS
        if name not in present
        and (name != 'MemorizationHook' or cfg.model.get('network', cfg.model).get('head') is not None)
    ]
