"""The baselines in a config: another loss for the head, and the hook that some of them need."""

from __future__ import annotations

import copy

from mmengine.config import Config, ConfigDict
from mmpretrain.models.heads import ArcFaceClsHead, ClsHead
from mmpretrain.registry import HOOKS, MODELS

from ..losses.checks import check_transition
from ..noise.synthetic import read_matrix
from .parts import classifier_head, kind_of, replaced

__all__ = ['BASELINES', 'BASELINE_OPTIONS', 'use_loss', 'use_own_loss']

#: Of each method, what its loss and its hook are told by the name alone.
BASELINES = {
    'bootstrap-soft': (dict(type='BootstrapLoss', hard=False), None),
    'bootstrap-hard': (dict(type='BootstrapLoss', hard=True), None),
    'forward': (dict(type='ForwardLoss'), dict(type='TransitionHook', source='known')),
    'forward-estimated': (dict(type='ForwardLoss'), dict(type='TransitionHook', source='estimated')),
    'backward': (dict(type='BackwardLoss'), dict(type='TransitionHook', source='known')),
    'gce': (dict(type='GCELoss'), None),
    'gce-truncated': (dict(type='TruncatedGCELoss'), dict(type='TruncationHook')),
    'sl': (dict(type='SCELoss'), None),
}
_LOSS_OPTIONS = {
    'bootstrap-soft': ('beta',),
    'bootstrap-hard': ('beta',),
    'gce': ('q',),
    'gce-truncated': ('q', 'k'),
    'sl': ('alpha', 'beta', 'log_zero'),
}
_HOOK_OPTIONS = {
    'forward': ('transition',),
    'forward-estimated': ('warm_up', 'quantile'),
    'backward': ('transition',),
    'gce-truncated': ('start', 'interval'),
}
#: Of each method, the names of its options.
BASELINE_OPTIONS = {name: _LOSS_OPTIONS.get(name, ()) + _HOOK_OPTIONS.get(name, ()) for name in BASELINES}

_LOSSES = {loss['type'] for loss, _ in BASELINES.values()}
_HOOKS = ('TransitionHook', 'TruncationHook')


def use_loss(cfg: Config, method: str, **options) -> None:
    """Give the head a baseline's loss, in place, and the run the hook that goes with it.

    Args:
        cfg (Config): A config with an ``ImageClassifier``, whose head is no ``ELRHead``.
        method (str): One of ``BASELINES``.
        **options: Out of ``BASELINE_OPTIONS``.

    Raises:
        TypeError: A head without such a loss.
        ValueError: A value outside its range.
    """
    head = classifier_head(cfg.model, f'{method} changes the loss of')
    _check_head(kind_of(head), method)
    loss, hook = BASELINES[method]
    old_hook = next((h for h in cfg.get('custom_hooks') or [] if kind_of(h) in _HOOKS), None)
    if _says(head.get('loss'), loss) and (hook is None or old_hook is not None and _same_source(old_hook, hook)):
        loss, hook = head.loss, old_hook  # the method of the config already; only what is given changes
    else:
        use_own_loss(cfg)
        if head.get('loss') is not None:
            replaced(cfg).keep('loss', head.loss)
    loss = ConfigDict(copy.deepcopy(loss), **{k: options[k] for k in _LOSS_OPTIONS.get(method, ()) if k in options})
    if kind_of(loss) in ('ForwardLoss', 'BackwardLoss'):
        loss.num_classes = _num_classes(cfg, head)
    MODELS.get(kind_of(loss))(**{k: v for k, v in loss.items() if k != 'type'})  # refuses a bad value now
    head.loss = loss
    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if kind_of(h) not in _HOOKS]
    if hook is not None:
        hook = ConfigDict(copy.deepcopy(hook), **{k: options[k] for k in _HOOK_OPTIONS[method] if k in options})
        if 'transition' in hook:
            path = hook.pop('transition')
            hook.source = 'known' if path is None else str(path)
        built = HOOKS.get(kind_of(hook))(**{k: v for k, v in hook.items() if k != 'type'})
        if getattr(built, 'path', None) is not None:
            check_transition(read_matrix(built.path), loss.num_classes)
        cfg.custom_hooks.append(hook)


def use_own_loss(cfg: Config) -> None:
    """Take a baseline's loss and hook out of a config, in place; the head gets back the loss that it had before."""
    model = cfg.model.get('network', cfg.model)
    head = model.get('head') or {}
    if kind_of(head) != 'ELRHead' and kind_of(head.get('loss') or {}) in _LOSSES:
        head.pop('loss')
        loss = replaced(cfg).take('loss')
        if loss is not None:
            head.loss = loss
    if cfg.get('custom_hooks'):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if kind_of(hook) not in _HOOKS]


def _says(loss: dict | None, method: dict) -> bool:
    """Whether a config's loss is a method's."""
    if loss is None or kind_of(loss) != method['type']:
        return False
    return all(loss.get(key, False) == value for key, value in method.items() if key != 'type')


def _same_source(hook: dict, method: dict) -> bool:
    return (hook.get('source') == 'estimated') == (method.get('source') == 'estimated')


def _check_head(name: str, method: str) -> None:
    kind = MODELS.get(name)
    if kind is None:
        raise KeyError(f'No head named {name!r} is registered in MMPretrain. Is its module in custom_imports?')
    if not issubclass(kind, ClsHead) or issubclass(kind, ArcFaceClsHead):
        raise TypeError(
            f'{method} cannot be the loss of {name}: it is one of a softmax over the classes, for samples that have '
            'one label each, and goes where a head derived from ClsHead has its argument loss. Use LinearClsHead, or '
            "method 'ce', which keeps the head's own loss."
        )


def _num_classes(cfg: Config, head: ConfigDict) -> int:
    num_classes = head.get('num_classes', (cfg.get('data_preprocessor') or {}).get('num_classes'))
    if num_classes is None:
        raise TypeError(
            f'The size of the transition matrix is not clear: {kind_of(head)} has no num_classes, and neither has '
            'data_preprocessor. Set data_preprocessor.num_classes.'
        )
    return num_classes
