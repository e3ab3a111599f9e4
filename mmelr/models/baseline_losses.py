"""The baselines' losses as the ``loss`` of any head of MMPretrain."""

from __future__ import annotations

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

from .. import losses

__all__ = ['BackwardLoss', 'BootstrapLoss', 'ForwardLoss', 'GCELoss', 'SCELoss', 'TruncatedGCELoss', 'run_entries']


class _LossOfHead:
    """Takes what a head of MMPretrain gives its loss: scores, labels, and by what to divide their sum."""

    def forward(self, cls_score: Tensor, label: Tensor, avg_factor: float | None = None, **kwargs) -> Tensor:
        """The loss.

        Args:
            cls_score (Tensor): Logits, [N, C].
            label (Tensor): Class indices [N], or distributions [N, C] where a batch augment mixed labels.
            avg_factor (float, optional): By what the sum over the samples is divided. Defaults to N.
            **kwargs: Further arguments of the loss itself.

        Returns:
            Tensor: A scalar.
        """
        loss = super().forward(cls_score, label, **kwargs)
        return loss if avg_factor in (None, len(cls_score)) else loss * (len(cls_score) / avg_factor)


@MODELS.register_module()
class BootstrapLoss(_LossOfHead, losses.BootstrapLoss):
    __doc__ = losses.BootstrapLoss.__doc__


@MODELS.register_module()
class ForwardLoss(_LossOfHead, losses.ForwardLoss):
    __doc__ = losses.ForwardLoss.__doc__


@MODELS.register_module()
class BackwardLoss(_LossOfHead, losses.BackwardLoss):
    __doc__ = losses.BackwardLoss.__doc__


@MODELS.register_module()
class GCELoss(_LossOfHead, losses.GCELoss):
    __doc__ = losses.GCELoss.__doc__


@MODELS.register_module()
class SCELoss(_LossOfHead, losses.SCELoss):
    __doc__ = losses.SCELoss.__doc__


@MODELS.register_module()
class TruncatedGCELoss(_LossOfHead, losses.TruncatedGCELoss):
    """Generalized cross entropy of the samples that the last pruning kept, as the ``loss`` of a head.

    It needs ``TruncationHook``, which makes the table of the samples kept when the data tells how many there are, says
    before each step which samples are in the batch, and prunes.

    Args:
        num_samples (int, optional): Size of the training set. Defaults to what the data tells.
        q (float): Exponent q in [0, 1]. Defaults to 0.7.
        k (float): Threshold k: a sample is kept where the probability of its label is above it. Defaults to 0.5.
    """

    def __init__(self, num_samples: int | None = None, q: float = 0.7, k: float = 0.5) -> None:
        super().__init__(1 if num_samples is None else num_samples, q, k)
        #: The samples of the batch that comes next, int64 [N].
        self.indices: Tensor | None = None

    def make_table(self, num_samples: int) -> None:
        """Keep all of so many samples, unless there is a table of this size."""
        if self.num_samples != num_samples:
            self.kept = torch.ones(num_samples, dtype=torch.bool, device=self.kept.device)

    def forward(self, cls_score: Tensor, label: Tensor, avg_factor: float | None = None) -> Tensor:
        """As the other losses, of the samples in :attr:`indices`."""
        if self.indices is None:
            raise ValueError(
                "TruncatedGCELoss does not know which training samples these are: add dict(type='TruncationHook') to "
                "custom_hooks, as mmelr.apply_method(cfg, 'gce-truncated') does."
            )
        return super().forward(cls_score, label, avg_factor, indices=self.indices)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        saved = state_dict.get(f'{prefix}kept')
        if saved is not None and self.num_samples == 1:  # no data has told the size: this model only predicts
            self.make_table(len(saved))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def run_entries(names: list[str]) -> list[str]:
    """Entries of a state dict that belong to the run that wrote it, not to the network: what was learned of its labels.

    Args:
        names (list[str]): Names of entries.

    Returns:
        list[str]: Target memories, transition matrices, tables of the samples kept.
    """
    own = ('head.memory.', *(f'head.loss_module.{name}' for name in ('transition', 'inverse', 'kept')))
    return [name for name in names if any(part in name for part in own)]
