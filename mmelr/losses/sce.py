r"""Symmetric cross entropy learning (SL).

Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019
(https://arxiv.org/abs/1908.06112).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..functional import log_probabilities
from .checks import check_labels, check_range, loss_of_label

__all__ = ['SCELoss', 'sce_loss']


def sce_loss(logits: Tensor, labels: Tensor, alpha: float, beta: float, log_zero: float = -4.0) -> Tensor:
    r"""Cross entropy and reverse cross entropy.

    .. math::
        L = \alpha L_{CE} + \beta L_{RCE}, \qquad
        L_{RCE} = -\frac1N \sum_i \sum_c p_{ic} \log y_{ic} = -\frac{A}{N} \sum_i (1 - p_{i y_i}), \qquad
        A = \log 0

    The second form of :math:`L_{RCE}` holds for a class index, whose :math:`\log y` is 0 once and A elsewhere: it is
    the mean absolute error times -A/2. For a distribution both terms are averaged over it, as if classes were drawn
    from it.

    The paper defines :math:`\log 0` to be a constant A. Its authors' code clamps the one-hot labels to at least 1e-4
    in the reverse term instead, which makes A = log 1e-4 = -9.2; so it is with ``log_zero=math.log(1e-4)``. The clamp
    of its predictions (to 1e-7) has no counterpart here: log softmax needs none.

    Args:
        logits (Tensor): Outputs of the network, [N, C], any floating dtype.
        labels (Tensor): Class indices [N] in [0, C), or distributions [N, C].
        alpha (float): α, weight of the cross entropy.
        beta (float): β, weight of the reverse cross entropy.
        log_zero (float): A < 0. Defaults to -4.

    Returns:
        Tensor: A scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: Labels that do not fit.
    """
    labels = check_labels(labels, logits)

    def loss(log_p: Tensor) -> Tensor:
        # expm1(log p) = -(1 - p), without the cancellation near p = 1.
        return beta * log_zero * torch.expm1(log_p) - alpha * log_p

    return loss_of_label(log_probabilities(logits), labels, loss).mean()


class SCELoss(nn.Module):
    """Symmetric cross entropy learning, SL (Wang et al., 2019), see :func:`sce_loss`.

    Published: α 0.1 and β 1 for CIFAR-10, α 6 and β 0.1 for CIFAR-100.

    Args:
        alpha (float): α >= 0, weight of the cross entropy. Defaults to 0.1, the paper's for CIFAR-10.
        beta (float): β >= 0, weight of the reverse cross entropy. Defaults to 1.0, likewise.
        log_zero (float): A < 0, what stands for the logarithm of 0. Defaults to -4.0.

    Examples:
        >>> criterion = SCELoss(alpha=6.0, beta=0.1)
        >>> loss = criterion(model(images), labels)
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0) -> None:
        super().__init__()
        published = 'The paper uses alpha=0.1, beta=1 for CIFAR-10 and alpha=6, beta=0.1 for CIFAR-100.'
        check_range('alpha', alpha, 0, float('inf'), published)
        check_range('beta', beta, 0, float('inf'), published)
        check_range('log_zero', log_zero, -float('inf'), 0, 'It stands for the logarithm of 0; -4 is usual.', True)
        self.alpha = alpha
        self.beta = beta
        self.log_zero = log_zero

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
        return sce_loss(logits, labels, self.alpha, self.beta, self.log_zero)

    def extra_repr(self) -> str:
        return f'alpha={self.alpha}, beta={self.beta}, log_zero={self.log_zero}'
