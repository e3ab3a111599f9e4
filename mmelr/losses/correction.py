r"""Loss correction by the transition matrix of the noise, and its estimate.

Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach", CVPR 2017
(https://arxiv.org/abs/1609.03683). T[i, j] is the probability that a sample of the true class i is given the label j;
rows sum to one.

The authors' code clamps probabilities to at least 1e-7 before it takes logarithms. Here nothing is clamped, for log
softmax is finite as it is: with the identity both corrections are cross entropy for any logits.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..functional import log_probabilities
from .checks import check_labels, check_range, check_transition, loss_of_label, rows_of

__all__ = ['BackwardLoss', 'ForwardLoss', 'backward_loss', 'estimate_transition', 'forward_loss']


def forward_loss(logits: Tensor, labels: Tensor, transition: Tensor) -> Tensor:
    r"""Forward correction: cross entropy of what the noise makes of the prediction.

    .. math:: L = -\frac1N \sum_i \sum_c y_{ic} \log \bigl( T^\top p_i \bigr)_c

    Its minimiser under noisy labels is that of cross entropy under clean ones (Theorem 2 of the paper). Computed from
    logarithms, so that a label is never impossible by underflow. A label that T itself never gives, a column of
    zeros, says nothing: its loss is 0, where the formula gives infinity.

    Args:
        logits (Tensor): Outputs of the network, [N, C], any floating dtype.
        labels (Tensor): Class indices [N] in [0, C), or distributions [N, C]; these take N · C · C numbers.
        transition (Tensor): T, [C, C], on the device of the logits.

    Returns:
        Tensor: A scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: Labels or a matrix that do not fit.
    """
    labels = check_labels(labels, logits)
    _check_classes(transition, logits)
    log_p = log_probabilities(logits)
    # sources[..., i]: how likely the label is where the true class is i. For each sample's label, or for all labels.
    sources = transition.t().to(log_p.dtype)
    sources = rows_of(sources, labels) if labels.dim() == 1 else sources
    log_sources = torch.where((sources > 0).any(dim=-1, keepdim=True), sources, 1).log()
    if labels.dim() == 1:
        return -(log_p + log_sources).logsumexp(dim=-1).mean()
    return loss_of_label((log_p[:, None] + log_sources).logsumexp(dim=-1), labels).mean()


def backward_loss(logits: Tensor, labels: Tensor, inverse: Tensor) -> Tensor:
    r"""Backward correction: cross entropy of all classes, weighted by the row of the inverse.

    .. math:: L = -\frac1N \sum_i \sum_c \bigl( y_i^\top T^{-1} \bigr)_c \log p_{ic}

    Its mean over the noisy labels that T draws is the cross entropy with the clean one (Theorem 1 of the paper). The
    inverse has negative entries, so a single loss is **not bounded from below**: a network that can memorise drives
    it to minus infinity.

    Args:
        logits (Tensor): Outputs of the network, [N, C], any floating dtype.
        labels (Tensor): Class indices [N] in [0, C), or distributions [N, C]; these take N · C · C numbers.
        inverse (Tensor): The inverse of T, [C, C], on the device of the logits.

    Returns:
        Tensor: A scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: Labels or a matrix that do not fit.
    """
    labels = check_labels(labels, logits)
    _check_classes(inverse, logits)
    log_p = log_probabilities(logits)
    inverse = inverse.to(log_p.dtype)
    if labels.dim() == 1:
        weights = rows_of(inverse, labels)
    else:
        # A product and a sum, no matmul: autocast would run that one in half precision.
        weights = (labels.to(log_p.dtype)[:, :, None] * inverse).sum(dim=1)
    return -(weights * log_p).sum(dim=1).mean()


class ForwardLoss(nn.Module):
    """Forward correction (Patrini et al., 2017), see :func:`forward_loss`.

    The matrix is a buffer and part of the state dict.

    Args:
        transition (Tensor | np.ndarray | list, optional): T, [C, C]; T[i, j] = P(label j | true class i), rows sum to
            one. Without it T is the identity, and the loss cross entropy, until :meth:`set_transition`.
        num_classes (int, optional): C, needed where there is no ``transition``.

    Raises:
        ValueError: A matrix that is no transition matrix, or neither of the two arguments.

    Examples:
        >>> criterion = ForwardLoss([[0.8, 0.2], [0.1, 0.9]])
        >>> loss = criterion(model(images), labels)
    """

    #: T, [C, C].
    transition: Tensor

    def __init__(self, transition: Tensor | np.ndarray | list | None = None, num_classes: int | None = None) -> None:
        super().__init__()
        if transition is None:
            if not isinstance(num_classes, int) or num_classes < 1:
                raise ValueError(
                    f'{type(self).__name__} needs a transition matrix, or the number of classes until there is one; '
                    f'got num_classes={num_classes!r}.'
                )
            transition = torch.eye(num_classes)
        transition = check_transition(transition, num_classes)
        self.register_buffer('transition', torch.empty(transition.shape))
        self.set_transition(transition)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.transition)

    @torch.no_grad()
    def set_transition(self, matrix: Tensor | np.ndarray | list) -> None:
        """Replace T.

        Args:
            matrix (Tensor | np.ndarray | list): As ``transition``, of the same number of classes.

        Raises:
            ValueError: It is no transition matrix of these classes; nothing has changed.
        """
        self.transition.copy_(check_transition(matrix, self.num_classes))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            logits (Tensor): Outputs of the network, [N, C], any floating dtype.
            labels (Tensor): Class indices [N] in [0, C), or distributions over the classes, [N, C].

        Returns:
            Tensor: A scalar, float32 also inside autocast (float64 for float64 logits).

        Raises:
            ValueError: Labels or logits that do not fit.
        """
        return forward_loss(logits, labels, self.transition)

    def extra_repr(self) -> str:
        return f'num_classes={self.num_classes}'


class BackwardLoss(ForwardLoss):
    """Backward correction (Patrini et al., 2017), see :func:`backward_loss`.

    The matrix and its inverse are buffers and part of the state dict.

    Args:
        transition (Tensor | np.ndarray | list, optional): T, as for :class:`ForwardLoss`; it must have an inverse.
        num_classes (int, optional): C, needed where there is no ``transition``.

    Raises:
        ValueError: A matrix that is no transition matrix, or is singular, or neither of the two arguments.

    Examples:
        >>> criterion = BackwardLoss([[0.8, 0.2], [0.1, 0.9]])
        >>> loss = criterion(model(images), labels)
    """

    #: The inverse of T, [C, C].
    inverse: Tensor

    @torch.no_grad()
    def set_transition(self, matrix: Tensor | np.ndarray | list) -> None:
        """Replace T.

        Args:
            matrix (Tensor | np.ndarray | list): As ``transition``, of the same number of classes.

        Raises:
            ValueError: It is no transition matrix of these classes, or is singular; nothing has changed.
        """
        matrix = check_transition(matrix, self.num_classes)
        condition = float(torch.linalg.cond(matrix))
        if not condition < 1 / torch.finfo(torch.float32).eps:
            raise ValueError(
                f'transition has no inverse in float32 (condition number {condition:.1e}), which BackwardLoss needs: '
                'some classes are mislabelled alike. Use ForwardLoss, which needs none.'
            )
        if 'inverse' not in self._buffers:
            self.register_buffer('inverse', torch.empty_like(self.transition))
        self.transition.copy_(matrix)
        self.inverse.copy_(torch.linalg.inv(matrix))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, see :meth:`ForwardLoss.forward`; of any sign."""
        return backward_loss(logits, labels, self.inverse)


def estimate_transition(probabilities: Tensor | np.ndarray, quantile: float = 0.97) -> Tensor:
    r"""Estimate T from the predictions of a network that was trained on the noisy labels.

    For each class i one sample is taken to be certainly of class i, and what the network says of it is row i:
    :math:`T_{ij} = p_j(x^i)`. The paper takes the sample with the largest :math:`p_i` (``quantile=1``), or, because
    the largest may be an outlier, the one at the 97 % quantile of :math:`p_i` over all samples; it used the largest for
    CIFAR-100. **A class that is rarer than 1 - quantile has no sample of its own there: use 1.** Rows are rescaled to
    sum to one.

    The authors' code differs for the quantile: it takes the largest :math:`p_i` below it, and blanks the larger ones
    of class i for the rows of the classes after i, too. Here it is the order statistic itself, and nothing is blanked.

    Args:
        probabilities (Tensor | np.ndarray): p of n samples, [n, C], rows that sum to one. The training samples
            will do; no labels are needed.
        quantile (float): In [0, 1]. Defaults to 0.97, the paper's.

    Returns:
        Tensor: T, float64 [C, C] on the CPU.

    Raises:
        ValueError: No probabilities, or a quantile outside [0, 1].
    """
    check_range('quantile', quantile, 0, 1, 'The paper uses 0.97, and 1 for CIFAR-100.')
    p = torch.as_tensor(probabilities).detach().double().cpu()
    if p.dim() != 2 or 0 in p.shape:
        raise ValueError(f'probabilities must be [samples, classes], got shape {tuple(p.shape)}.')
    # Rounding to bfloat16 moves a sum by up to 0.4 %. NaN fails, too.
    if not ((p >= 0) & ((p.sum(dim=1, keepdim=True) - 1).abs() <= 1e-2)).all():
        raise ValueError('probabilities must be rows that sum to one, the softmax of the logits; these are not.')
    samples = p.sort(dim=0, stable=True).indices[math.ceil(quantile * (len(p) - 1))]
    return p[samples] / p[samples].sum(dim=1, keepdim=True)


def _check_classes(matrix: Tensor, logits: Tensor) -> None:
    if matrix.shape != 2 * logits.shape[1:]:
        raise ValueError(
            f'The transition matrix has {len(matrix)} classes, but the network has {logits.shape[1]} outputs.'
        )
