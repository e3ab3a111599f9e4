r"""Bootstrapping: part of the label is what the network itself predicts.

Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping", 2014
(https://arxiv.org/abs/1412.6596).
"""

from __future__ import annotations

from torch import Tensor, nn

from ..functional import log_probabilities
from .checks import check_labels, check_range, loss_of_label

__all__ = ['BootstrapLoss', 'bootstrap_loss']


def bootstrap_loss(logits: Tensor, labels: Tensor, beta: float, hard: bool = False) -> Tensor:
    r"""Cross entropy with a label that is partly the prediction.

    .. math:: L = -\frac1N \sum_i \sum_c (\beta y_{ic} + (1 - \beta) b_{ic}) \log p_{ic}

    What is believed, b, is p in the soft version; in the hard one it is 1 for the class with the largest p, and 0 for
    the others.

    In the soft version the gradient flows through both p: the second term is the entropy of the prediction, and the
    loss is softmax regression with minimum entropy regularization, as the paper says. Code that holds the first p of
    that term constant has another gradient.

    Args:
        logits (Tensor): Outputs of the network, [N, C], any floating dtype.
        labels (Tensor): Class indices [N] in [0, C), or distributions [N, C].
        beta (float): β in [0, 1], the share of the label.
        hard (bool): Whether the prediction counts as its largest class alone. Defaults to False.

    Returns:
        Tensor: A scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: Labels that do not fit.
    """
    labels = check_labels(labels, logits)
    log_p = log_probabilities(logits)
    believed = log_p.max(dim=1).values if hard else (log_p.exp() * log_p).sum(dim=1)
    return (beta * loss_of_label(log_p, labels) - (1 - beta) * believed).mean()


class BootstrapLoss(nn.Module):
    """Bootstrapping (Reed et al., 2014), see :func:`bootstrap_loss`.

    Args:
        beta (float, optional): β in [0, 1], the share of the label; 1 is cross entropy. Defaults to the published
            value, 0.95 soft and 0.8 hard.
        hard (bool): Whether the prediction counts as its largest class alone. Defaults to False.

    Examples:
        >>> criterion = BootstrapLoss(hard=True)
        >>> loss = criterion(model(images), labels)
    """

    def __init__(self, beta: float | None = None, hard: bool = False) -> None:
        super().__init__()
        if beta is None:
            beta = 0.8 if hard else 0.95
        check_range('beta', beta, 0, 1, 'It is the share of the label; the paper uses 0.95 soft, 0.8 hard.')
        self.beta = beta
        self.hard = hard

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
        return bootstrap_loss(logits, labels, self.beta, self.hard)

    def extra_repr(self) -> str:
        return f'beta={self.beta}, hard={self.hard}'
