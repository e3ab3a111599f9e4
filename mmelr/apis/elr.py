"""ELR, ELR* and ELR+ in a config: the head, the schedule, the second network."""

from __future__ import annotations

import copy

from mmengine.config import Config, ConfigDict

from ..engine import ELREMAHook
from ..engine.co_training_runner import check_schedule
from ..losses import check_hyperparameters
from ..models import ELRMixup
from ..models.co_training import check_choices
from ..models.elr_head import check_base_head
from .parts import classifier_head, epochs_of, kind_of, replaced

__all__ = ['ELR_OPTIONS', 'PLUS_OPTIONS', 'STAR_OPTIONS', 'base_head', 'use_co_training', 'use_elr', 'use_one_network',
           'use_own_schedule', 'use_restarts']  # fmt: skip

#: Options of ELR, and of the methods that stand on it.
ELR_OPTIONS = ('beta', 'lam', 'memory_dtype', 'memory_storage', 'memory_top_k')
#: What ELR* takes beside them.
STAR_OPTIONS = ('T_0',)
#: What ELR+ takes beside them.
PLUS_OPTIONS = ('num_networks', 'teacher', 'alpha', 'gamma', 'schedule')


def use_elr(cfg: Config, **options) -> None:
    """Make the head an ``ELRHead``, in place, that of the network of a co-training model too."""
    check_hyperparameters(options.get('beta', 0.7), options.get('lam', 3.0))
    network = cfg.model.network if kind_of(cfg.model) == 'CoTrainingClassifier' else cfg.model
    head = copy.deepcopy(classifier_head(network, 'ELR stands in for'))
    if kind_of(head) != 'ELRHead':
        check_base_head(kind_of(head))
        head.base, head.type = kind_of(head), 'ELRHead'
    head.update(options)
    network.head = head
    if (head.get('loss') or {}).get('use_sigmoid'):
        # Binary cross entropy takes one-hot labels, which often only the batch augments bring that ELR must do without.
        owner = cfg.model if cfg.model.get('data_preprocessor') else cfg
        owner.setdefault('data_preprocessor', ConfigDict())
        owner.data_preprocessor.to_onehot = True


def base_head(head: ConfigDict) -> ConfigDict:
    """The head that an ``ELRHead`` stands in for."""
    own = ('type', 'base', 'num_samples', *ELR_OPTIONS)
    return ConfigDict(type=head.get('base', 'LinearClsHead'), **{k: v for k, v in head.items() if k not in own})


def use_restarts(cfg: Config, T_0: int | None = None) -> None:
    """Make the schedule that of ELR*, cosine annealing with warm restarts, in place; its epochs stay."""
    epochs, kept = epochs_of(cfg, 'ELR*'), replaced(cfg)
    if T_0 is None:
        T_0 = cfg.param_scheduler.periods[0] if 'param_scheduler' in kept else 10
    if not isinstance(T_0, int) or T_0 < 1:
        raise ValueError(f'T_0, the epochs from one restart to the next, must be a positive integer, got {T_0!r}.')
    if 'param_scheduler' not in kept:
        kept.keep('param_scheduler', cfg.get('param_scheduler'))
    periods = -(-epochs // T_0)
    # A twentieth of each learning rate, published as 0.001 for 0.02.
    cfg.param_scheduler = ConfigDict(
        type='CosineRestartLR',
        by_epoch=True,
        periods=[T_0] * periods,
        restart_weights=[1] * periods,
        eta_min_ratio=0.05,
    )


def use_own_schedule(cfg: Config) -> None:
    """Give a config the schedule back that ELR* replaced, in place."""
    kept = replaced(cfg)
    if 'param_scheduler' in kept:
        cfg.pop('param_scheduler')
        schedule = kept.take('param_scheduler')
        if schedule is not None:
            cfg.param_scheduler = schedule


def use_co_training(cfg: Config, **options) -> None:
    """Make the model the network of a co-training one, in place, and the loop and the metrics what that needs."""
    if kind_of(cfg.model) != 'CoTrainingClassifier':
        _wrap_network(cfg)
    _set_plus_options(cfg, **options)


def _wrap_network(cfg: Config) -> None:
    network = cfg.model
    shared = {key: network.pop(key) for key in ('data_preprocessor', 'train_cfg') if key in network}
    cfg.model = ConfigDict(type='CoTrainingClassifier', network=network, **shared)
    epochs_of(cfg, 'ELR+')
    loop = {key: value for key, value in cfg.train_cfg.items() if key != 'by_epoch'}
    cfg.train_cfg = ConfigDict(loop, type='CoTrainingRunner')
    for key in ('val_evaluator', 'test_evaluator'):
        if cfg.get(key) is None:
            continue
        evaluator = cfg[key] if isinstance(cfg[key], dict) and 'metrics' in cfg[key] else dict(metrics=cfg[key])
        if evaluator.get('type', 'Evaluator') == 'Evaluator':  # one of another type has its own idea of metrics
            cfg[key] = ConfigDict(type='MemberEvaluator', metrics=evaluator['metrics'])


def use_one_network(cfg: Config) -> None:
    """Take a network out of a co-training config, in place, and train and evaluate it alone."""
    model = cfg.model
    shared = {key: model[key] for key in ('data_preprocessor', 'train_cfg') if model.get(key) is not None}
    cfg.model = ConfigDict(model.network, **shared)
    if kind_of(cfg.get('train_cfg') or {}) == 'CoTrainingRunner':
        loop = {key: value for key, value in cfg.train_cfg.items() if key not in ('type', 'schedule')}
        cfg.train_cfg = ConfigDict(loop, by_epoch=True)
    for key in ('val_evaluator', 'test_evaluator'):
        if kind_of(cfg.get(key) or {}) == 'MemberEvaluator':
            cfg[key] = cfg[key].metrics
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if kind_of(hook) != 'ELREMAHook']


def _set_plus_options(
    cfg: Config,
    num_networks: int | None = None,
    teacher: str | None = None,
    alpha: float | None = None,
    gamma: float | None = None,
    schedule: str | None = None,
) -> None:
    """Change what is given; what neither is given nor in the config gets the published choice."""
    model = cfg.model
    model.num_networks = model.get('num_networks', 2) if num_networks is None else num_networks
    model.teacher = model.get('teacher', 'average') if teacher is None else teacher
    check_choices(model.num_networks, model.teacher)
    if alpha is not None or 'mixup' not in model:
        alpha = 1.0 if alpha is None else alpha
        model.mixup = None if alpha == 0 else ConfigDict(type='ELRMixup', alpha=ELRMixup(alpha).alpha)
    if model.mixup is not None and model.network.head.get('cal_acc'):
        model.network.head.cal_acc = False  # accuracy of a blend of two labels has no meaning, and MMPretrain refuses
    if schedule is not None:
        check_schedule(schedule)
        cfg.train_cfg.schedule = schedule
    cfg.custom_hooks = list(cfg.get('custom_hooks') or [])
    hooks = [hook for hook in cfg.custom_hooks if kind_of(hook) == 'ELREMAHook']
    if not hooks and model.teacher == 'average':
        # Bias correction, because the published ramp must be as long as the run, and says nothing for another one.
        hooks = [ConfigDict(type='ELREMAHook', gamma=0.997, bias_correction=True)]
        cfg.custom_hooks += hooks
    if gamma is not None:
        ELREMAHook(gamma)  # refuses a bad value now
        if not hooks:
            raise ValueError(f"gamma={gamma} has nothing to act on: with teacher='network' there is no weight average.")
        hooks[0].gamma = gamma
