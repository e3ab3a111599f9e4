"""``ELRMixup``: mixup that says whom it mixed with whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from mmpretrain.registry import BATCH_AUGMENTS
from torch import Tensor

__all__ = ['ELRMixup', 'Pairing']


@dataclass(frozen=True)
class Pairing:
    r"""Which sample of a batch each one is mixed with, and how much remains of itself.

    Attributes:
        ratio (float): :math:`\ell'` in [0.5, 1], one for the batch.
        index (Tensor): Partner j of each sample, a permutation of the batch, int64 [N].
    """

    ratio: float
    index: Tensor

    def mix(self, x: Tensor) -> Tensor:
        r"""Blend rows with those of their partners, :math:`\ell' x_i + (1 - \ell') x_j`.

        Args:
            x (Tensor): Images, label distributions or targets, floating, [N, ...].

        Returns:
            Tensor: Of the same shape.
        """
        return self.ratio * x + (1 - self.ratio) * x[self.index.to(x.device, non_blocking=True)]


@BATCH_AUGMENTS.register_module()
class ELRMixup:
    r"""The mixup of ELR+ (Algorithm 2 of the paper).

    :math:`\ell \sim \mathrm{Beta}(\alpha, \alpha)` and :math:`\ell' = \max(\ell, 1 - \ell)`, so a mixed image is more
    its own than its partner's. ``CoTrainingClassifier`` asks for the :class:`Pairing`, mixes the targets with it as
    well, and shows the teacher the images as they were. By itself it is a batch augment of MMPretrain, for
    ``model.train_cfg`` of any classifier (but not before ``ELRHead``, which must see whose label is whose).

    Args:
        alpha (float): α > 0, the strength: 1 draws every ratio in [0.5, 1] alike, smaller values mix less.
            Defaults to 1.0.

    Raises:
        ValueError: α is not positive.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        if not 0 < alpha < float('inf'):
            raise ValueError(f'alpha of ELRMixup must be positive, got {alpha!r}. For no mixup leave ELRMixup out.')
        self.alpha = alpha

    def draw(self, batch_size: int) -> Pairing:
        """Draw a pairing, from NumPy's and torch's random state as MMPretrain's ``Mixup`` does.

        Args:
            batch_size (int): N >= 1.

        Returns:
            Pairing: Of these N samples.
        """
        ratio = float(np.random.beta(self.alpha, self.alpha))
        return Pairing(max(ratio, 1 - ratio), torch.randperm(batch_size))

    def __call__(self, batch_inputs: Tensor, batch_score: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch, as MMPretrain's data preprocessor asks for it.

        Args:
            batch_inputs (Tensor): Images, floating, [N, ...].
            batch_score (Tensor): One-hot labels, [N, C].

        Returns:
            tuple[Tensor, Tensor]: Mixed images and labels.
        """
        pairing = self.draw(len(batch_inputs))
        return pairing.mix(batch_inputs), pairing.mix(batch_score.float())
