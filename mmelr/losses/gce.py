r"""Generalized cross entropy, plain and truncated.

Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS 2018
(https://arxiv.org/abs/1805.07836).
"""

from __future__ import annotations

import math
from functools import partial
from numbers import Integral

import torch
from torch import Tensor, nn

from ..functional import log_probabilities
from ..memory.groups import gather_rows, world_size
from .checks import check_indices, check_labels, check_range, loss_of_label

__all__ = ['GCELoss', 'TruncatedGCELoss', 'box_cox', 'gce_loss']

_SMALLEST = 1e-30  # a smaller exponent is no number that float32 can divide by
_Q = 'It is the exponent of the loss; 0 is cross entropy, 1 is 1 - p, half of the mean absolute error; the paper: 0.7.'


def box_cox(log_p: Tensor, q: float) -> Tensor:
    r"""The paper's :math:`L_q = (1 - p^q) / q`, from the logarithm of p.

    Written with expm1 it is exact for small q, too, and its gradient finite down to p = 0. Its limit for q → 0 is
    :math:`-\log p`.

    Args:
        log_p (Tensor): log p, of any shape.
        q (float): In [0, 1].

    Returns:
        Tensor: Of the same shape, in [0, 1/q].
    """
    if q < _SMALLEST:
        return -log_p
    return -torch.expm1(q * log_p) / q


def gce_loss(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    r"""Generalized cross entropy.

    .. math:: L = \frac1N \sum_i \sum_c y_{ic} \frac{1 - p_{ic}^q}{q}

    q = 0 is cross entropy, q = 1 is :math:`1 - p_y`, half of the mean absolute error
    :math:`\|y - p\|_1 = 2 - 2 p_y`. The gradient with respect to the logits is that of cross entropy times
    :math:`p_y^q`: samples that the network does not believe count less.

    Args:
        logits (Tensor): Outputs of the network, [N, C], any floating dtype.
        labels (Tensor): Class indices [N] in [0, C), or distributions [N, C].
        q (float): In [0, 1].

    Returns:
        Tensor: A scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: Labels that do not fit.
    """
    labels = check_labels(labels, logits)
    return loss_of_label(log_probabilities(logits), labels, partial(box_cox, q=q)).mean()


class GCELoss(nn.Module):
    """Generalized cross entropy (Zhang and Sabuncu, 2018), see :func:`gce_loss`.

    Args:
        q (float): In [0, 1]: 0 is cross entropy, 1 is half of the mean absolute error. Defaults to 0.7, the paper's.

    Examples:
        >>> criterion = GCELoss(q=0.7)
        >>> loss = criterion(model(images), labels)
    """

    def __init__(self, q: float = 0.7) -> None:
        super().__init__()
        check_range('q', q, 0, 1, _Q)
        self.q = q

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            logits (Tensor): Outputs of the network, [N, C], any floating dtype.
            labels (Tensor): Class indices [N] in [0, C), or distributions over the classes, [N, C].

        Returns:
            Tensor: A scalar, float32 also inside autocast (float64 for float64 logits).

        Raises:
            ValueError: Labels that do not fit.
        """
        return gce_loss(logits, labels, self.q)

    def extra_repr(self) -> str:
        return f'q={self.q}'


class TruncatedGCELoss(nn.Module):
    r"""Truncated generalized cross entropy: samples that the network does not believe are left out for a while.

    The paper minimises, over the network and over weights :math:`w_i` of the samples,

    .. math:: \frac1N \sum_i w_i \bigl( L_q(p_i) - L_q(k) \bigr), \qquad w_i \in [0, 1],

    in turn (Algorithm 1). :meth:`forward` is the loss for given weights, a mean over all samples of the batch, also
    those without weight. :meth:`prune` minimises over the weights: :math:`w_i = 1` where :math:`L_q(p_i) < L_q(k)`,
    which for a class index is p > k, else 0. All weights are 1 at first. Call :meth:`prune` on the whole training set
    now and then, with the best network so far and without augmentation; published: after 40 epochs, and again every 10.

    Args:
        num_samples (int): Samples in the training set, n.
        q (float): In [0, 1], see :class:`GCELoss`. Defaults to 0.7, the paper's.
        k (float): Threshold of the probability, in (0, 1). Defaults to 0.5, the paper's.

    Examples:
        >>> criterion = TruncatedGCELoss(num_samples=50000).to(device)
        >>> loss = criterion(model(images), labels, indices)
        >>> criterion.prune(best_model(images), labels, indices)  # now and then, for each batch of the training set
    """

    #: w_i, bool [n]: the samples that count.
    kept: Tensor

    def __init__(self, num_samples: int, q: float = 0.7, k: float = 0.5) -> None:
        super().__init__()
        if not isinstance(num_samples, Integral) or isinstance(num_samples, bool) or num_samples < 1:
            raise ValueError(f'num_samples must be the size of the training set, at least 1, got {num_samples!r}.')
        check_range('q', q, 0, 1, _Q)
        check_range('k', k, 0, 1, 'It is the probability below which a sample is left out; the paper: 0.5.', True)
        self.q = q
        self.k = k
        self._limit = -math.log(k) if q < _SMALLEST else -math.expm1(q * math.log(k)) / q  # L_q(k)
        self.register_buffer('kept', torch.ones(num_samples, dtype=torch.bool))

    @property
    def num_samples(self) -> int:
        """Samples in the training set."""
        return len(self.kept)

    def forward(self, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            logits (Tensor): Outputs of the network, [N, C], any floating dtype.
            labels (Tensor): Class indices [N] in [0, C), or distributions over the classes, [N, C].
            indices (Tensor): Position of each sample in the training set, [N], integers, best left on the CPU.

        Returns:
            Tensor: A scalar, at most :math:`L_q(0) - L_q(k)`, below 0 where samples are believed. float32 also inside
            autocast (float64 for float64 logits).

        Raises:
            IndexError: An index outside the training set.
            ValueError: Shapes that do not fit, or labels outside [0, C).
        """
        excess = self._excess(logits, labels, indices)
        kept = self.kept[indices.to(self.kept.device, torch.int64, non_blocking=True)]
        # No product: a weight of 0 must also silence a loss that is infinite, at q = 0.
        return torch.where(kept, excess, torch.zeros_like(excess)).mean()

    @torch.no_grad()
    def prune(self, logits: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Set the weights of these samples by what the network says of them; the others stay as they are.

        With ``torch.distributed`` all ranks call it together, with batches of equal size, and all set the weights of
        the samples of all.

        Args:
            logits (Tensor): As for :meth:`forward`, best of the network in evaluation, for images without augmentation.
            labels (Tensor): Likewise.
            indices (Tensor): Likewise.

        Raises:
            IndexError: An index outside the training set.
            ValueError: Shapes that do not fit, or labels outside [0, C).
        """
        keep = self._excess(logits, labels, indices) < 0
        indices = indices.to(self.kept.device, torch.int64, non_blocking=True)
        if world_size() > 1:
            indices, rows = gather_rows(indices, dict(keep=keep), None)
            keep = rows['keep']
        self.kept[indices] = keep

    def extra_repr(self) -> str:
        return f'num_samples={self.num_samples}, q={self.q}, k={self.k}'

    def _excess(self, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """L_q(p) - L_q(k) of each sample, [N]."""
        labels = check_labels(labels, logits)
        check_indices(indices, self.num_samples, len(logits))
        return loss_of_label(log_probabilities(logits), labels, partial(box_cox, q=self.q)) - self._limit
