"""``ELRHead``: Early-Learning Regularization in place of a classification head of MMPretrain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModule
from mmpretrain.models.heads import ArcFaceClsHead, ClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from ..functional import elr_regularizer, probabilities
from ..losses import check_hyperparameters
from ..memory import DTYPES, TargetMemory, check_options, choose

__all__ = ['ELRHead', 'check_base_head', 'check_one_label', 'sum_branches']


def sum_branches(cls_score: Tensor | tuple[Tensor]) -> Tensor:
    """The logits that a head predicts with, [N, C]: the sum of its branches, where it has several."""
    return sum(cls_score) if isinstance(cls_score, tuple) else cls_score


def check_base_head(name: str) -> type[ClsHead]:
    """The class of a head that ELR can stand in for.

    Args:
        name (str): Registered name, e.g. ``'LinearClsHead'``.

    Returns:
        type: The class, a single-label head.

    Raises:
        KeyError: No head has this name.
        TypeError: ELR makes no sense with this head; the message says what to do instead.
    """
    base = MODELS.get(name)
    if base is None:
        raise KeyError(f'No head named {name!r} is registered in MMPretrain. Is its module in custom_imports?')
    if issubclass(base, ArcFaceClsHead):
        raise TypeError(
            f'ELR cannot stand in for {name}: its training logits carry a margin at the given label, so '
            'their softmax is not the prediction that ELR averages. Use LinearClsHead, or train '
            f'{name} afterwards on cleaned labels.'
        )
    if not issubclass(base, ClsHead):
        raise TypeError(
            f'ELR cannot stand in for {name}: it regularises one softmax over the classes, for samples that '
            'have one label each, and so needs a head derived from ClsHead. Keep the own loss of '
            'multi-label, multi-task and self-supervised heads.'
        )
    return base


@MODELS.register_module()
class ELRHead(BaseModule):
    r"""Stands in for a single-label classification head and trains it with ELR.

    The object built is also an instance of the ``base`` head: it has its arguments, layers, parameter names and
    predictions, and keeps its own loss (label smoothing and all) as the first term of

    .. math:: L = L_{base} + \lambda \cdot \mathrm{mean}_i \log(1 - \langle p_i, t_i \rangle) .

    Checkpoints of the base head load into it and the other way round; the target memory is one more entry,
    ``memory.t``. The memory takes the number of samples from the data (``NoisyLabelDataset`` tells it with
    every sample) at the first training step, or from the checkpoint that is loaded before.

    A head that scores with several branches (``ConformerHead``) averages the prediction that it would make, the
    softmax of their sum, and regularises each branch, as it applies cross entropy to each.

    Args:
        base (str): The head to stand in for. Defaults to ``'LinearClsHead'``.
        beta (float): Momentum β of the targets, in [0, 1). Defaults to 0.7.
        lam (float): Strength λ of the regulariser, at least 0. Defaults to 3.0.
        num_samples (int, optional): Size of the training set, for data that does not tell it.
        memory_dtype (str): Of the stored targets, see :class:`mmelr.TargetMemory`. Defaults to ``'float32'``.
        memory_storage (str): Where they are kept, see :class:`mmelr.TargetMemory`. Defaults to ``'device'``.
        memory_top_k (int): Classes kept of each target by ``memory_storage='sparse'``. Defaults to 16.
        **kwargs: Arguments of the base head.

    Examples:
        >>> head = dict(type='ELRHead', beta=0.7, lam=3.0, num_classes=10, in_channels=512)
        >>> head = dict(type='ELRHead', base='VisionTransformerClsHead', num_classes=10, in_channels=768)
    """

    def __new__(cls, *args, base: str = 'LinearClsHead', **kwargs):
        return super().__new__(_elr_class(check_base_head(base)) if cls is ELRHead else cls)

    def __init__(
        self,
        *,
        base: str = 'LinearClsHead',
        beta: float = 0.7,
        lam: float = 3.0,
        num_samples: int | None = None,
        memory_dtype: str = 'float32',
        memory_storage: str = 'device',
        memory_top_k: int = 16,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        check_hyperparameters(beta, lam)
        self._memory_options = dict(dtype=memory_dtype, storage=memory_storage, top_k=memory_top_k)
        check_options(**self._memory_options)
        if num_samples is not None:
            TargetMemory(num_samples, 1)  # refuses a bad value now, not in the first step
        self.base = base
        self.beta = beta
        self.lam = lam
        self.num_samples = num_samples
        self.memory: TargetMemory | None = None
        #: Logits that entered the memory last, [N, C] in the order of the batch, for who wants to look at them.
        self.averaged: Tensor | None = None
        #: The samples that these are of, int64 [N] on the CPU, and their targets after the update, [N, C].
        self.visited: tuple[Tensor, Tensor] | None = None
        self._targets: Tensor | None = None

    def loss(self, feats: tuple[Tensor], data_samples: list[DataSample], **kwargs) -> dict:
        """Losses of a training step; the targets of its samples are averaged on the way.

        Args:
            feats (tuple[Tensor]): Features, as the base head takes them.
            data_samples (list[DataSample]): N samples with ``gt_label`` (or a soft ``gt_score``) and, as
                ``NoisyLabelDataset`` gives them, ``sample_idx`` and ``num_samples``.
            **kwargs: Passed to the base head.

        Returns:
            dict[str, Tensor]: ``loss_cls`` of the base head and ``loss_elr``, λ times the regulariser, at most 0;
            the training loss is their sum. Further entries of the base head as they are.
        """
        losses = super().loss(feats, data_samples, **kwargs)
        if 'loss_elr' not in losses:
            raise TypeError(f'ELR cannot stand in for {self.base}: its loss() does not go through ClsHead._get_loss().')
        return losses

    def _get_loss(self, cls_score: Tensor | tuple[Tensor], data_samples: list[DataSample], **kwargs) -> dict:
        branches = cls_score if isinstance(cls_score, tuple) else (cls_score,)
        branches = tuple(s if s.dtype == torch.float64 else s.float() for s in branches)  # also inside autocast
        if self._targets is None:
            check_one_label(data_samples)

        losses = super()._get_loss(branches if isinstance(cls_score, tuple) else branches[0], data_samples, **kwargs)
        losses['loss_cls'] = losses.pop('loss')

        p = [probabilities(s) for s in branches]
        t = self._targets
        if t is None:
            t = self._average(data_samples, sum_branches(branches).detach(), p[0].detach() if len(p) == 1 else None)
        regularizer = elr_regularizer(p[0], t)
        for of_branch in p[1:]:
            regularizer = regularizer + elr_regularizer(of_branch, t)
        losses['loss_elr'] = self.lam * regularizer
        weight = data_samples[0].get('loss_weight', 1)
        if weight == 1:
            return losses
        return {key: value * weight if key.startswith('loss') else value for key, value in losses.items()}

    @torch.no_grad()
    def update_targets(self, data_samples: list[DataSample], cls_score: Tensor | tuple[Tensor]) -> Tensor:
        """Average a prediction into the targets of a batch, t ← β t + (1 - β) p.

        Args:
            data_samples (list[DataSample]): The N samples, as :meth:`loss` takes them.
            cls_score (Tensor | tuple[Tensor]): Logits of whoever teaches, [N, C], or of each of its branches.

        Returns:
            Tensor: t of the batch after the update, [N, C].
        """
        return self._average(data_samples, sum_branches(cls_score).detach())

    @torch.no_grad()
    def _average(self, data_samples: list[DataSample], logits: Tensor, p: Tensor | None = None) -> Tensor:
        """The same of logits whose probabilities may be known."""
        p = probabilities(logits) if p is None else p
        p = p / p.sum(dim=1, keepdim=True)
        memory = self._memory(data_samples, p)
        # Where `PaddingHook` found nothing but a repeated sample this rank visits none, and its loss has no weight.
        real = len(p) if data_samples[0].get('loss_weight', 1) else 0
        self.averaged = logits[:real]
        indices = torch.tensor([s.sample_idx for s in data_samples[:real]], dtype=torch.int64)
        try:
            t = memory.update(indices, p[:real], self.beta, data_samples[0].get('places'))
        except FloatingPointError as e:
            raise FloatingPointError(f'{e}{_where_in_training()}') from e
        self.visited = indices, t
        return t if real else p

    @contextmanager
    def given_targets(self, t: Tensor) -> Iterator[None]:
        """Within this context :meth:`loss` takes these targets, and leaves the memory alone.

        It is how ELR+ hands over targets that another network has averaged and mixup has mixed, through the forward
        pass of any classifier around this head.

        Args:
            t (Tensor): Targets of the batch, [N, C].
        """
        self._targets = t
        try:
            yield
        finally:
            self._targets = None

    def make_memory(self, num_samples: int, num_classes: int | None = None, tables: int = 1) -> None:
        """Make the memory now, if there is none, where the number of outputs is known; else the first step makes it.

        Args:
            num_samples (int): Size of the training set.
            num_classes (int, optional): Number of outputs. Defaults to the head's own.
            tables (int): Memories that this run will have, for ``memory_storage='auto'``. Defaults to 1.
        """
        num_classes = getattr(self, 'num_classes', None) if num_classes is None else num_classes
        if self.memory is None and num_classes is not None:
            device, options = next((p.device for p in self.parameters()), None), dict(self._memory_options)
            reason = None
            if options['storage'] == 'auto':
                dtype = DTYPES.get(options['dtype'], options['dtype'])
                options['storage'], reason = choose(num_samples, num_classes, dtype, options['top_k'], tables)
            self.memory = TargetMemory(num_samples, num_classes, **options).to(device)
            self.memory.reason = reason

    def _memory(self, data_samples: list[DataSample], p: Tensor) -> TargetMemory:
        """The memory, made when the first batch tells its size."""
        sample = data_samples[0]
        num_samples = sample.get('num_samples', self.num_samples)
        if num_samples is None or 'sample_idx' not in sample:
            raise ValueError(
                'ELRHead must know which training sample is which, and how many there are. Wrap the training '
                "dataset, dataset=dict(type='NoisyLabelDataset', dataset=...), as mmelr.apply_method(cfg, "
                "'elr') does; or give ELRHead num_samples and every data sample a sample_idx."
            )
        if self.num_samples not in (None, num_samples):
            raise ValueError(
                f'ELRHead was given num_samples={self.num_samples}, but the training set has {num_samples}. '
                'Leave it out: NoisyLabelDataset tells it.'
            )
        if self.memory is None:
            self.memory = TargetMemory(num_samples, p.shape[1], **self._memory_options).to(p.device)
        elif self.memory.num_samples != num_samples:
            raise ValueError(
                f'The target memory holds {self.memory.num_samples} samples, but the training set has '
                f'{num_samples}: the checkpoint is of a run on another dataset. Publish it first '
                '(tools/publish_model.py leaves the memory out) to start anew from its weights.'
            )
        return self.memory

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        dense, sparse = (state_dict.get(f'{prefix}memory.{name}') for name in ('t', 'values'))
        if dense is not None and dense.dim() == 2:
            self.make_memory(*dense.shape)
        elif sparse is not None:
            self.make_memory(len(sparse))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _where_in_training() -> str:
    """The iteration, and what to go back to, if this is a run of MMEngine's."""
    hub = MessageHub.get_current_instance()
    iteration, epoch, last = (hub.get_info(key) for key in ('iter', 'epoch', 'last_ckpt'))
    if iteration is None:
        return ''
    kept = f'The last good checkpoint is {last}.' if last else 'There is no checkpoint yet.'
    return f' It was in iteration {iteration + 1} (epoch {epoch + 1}). {kept}'


@cache
def _elr_class(base: type[ClsHead]) -> type[ELRHead]:
    # Inheritance, not a wrapped module, so that parameters keep the names they have in checkpoints of the base head.
    return type(f'ELR{base.__name__}', (ELRHead, base), {'__doc__': ELRHead.__doc__, '__module__': __name__})


def __getattr__(name: str):
    # Classes made above are unpickled by name, perhaps in a process that has not made them yet.
    base = MODELS.get(name[3:]) if name.startswith('ELR') else None
    if base is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return _elr_class(base)


def check_one_label(data_samples: list[DataSample]) -> None:
    """Refuse labels that something mixed before the head saw them: whose average would the prediction enter?"""
    if 'gt_label' not in data_samples[0] or 'gt_score' not in data_samples[0]:
        return
    score = torch.stack([s.gt_score for s in data_samples])
    label = torch.cat([s.gt_label for s in data_samples]).to(score.device)
    if len(label) != len(score):
        raise ValueError('ELR needs exactly one label for each sample; these have several (multi-label data).')
    # Asserts on the device without waiting for it; at once on the CPU.
    torch._assert_async(
        (score.gather(1, label[:, None]) == 1).all(),
        'A batch augment (Mixup, CutMix, ...) mixed the labels before ELRHead saw them, so it cannot tell whose '
        'prediction it averages. Remove it from the config (model.train_cfg, or batch_augments of data_preprocessor).',
    )
