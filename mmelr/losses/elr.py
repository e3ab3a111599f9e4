"""Early-Learning Regularization: the equation of :mod:`mmelr.functional` and its memory in one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..functional import cross_entropy, elr_regularizer, probabilities
from ..memory import TargetMemory
from .checks import check_labels

__all__ = ['ELRLoss', 'check_hyperparameters']


def check_hyperparameters(beta: float, lam: float) -> None:
    """Refuse a β outside [0, 1) or a negative λ.

    Raises:
        ValueError: Names the value and its range.
    """
    if not 0 <= beta < 1:
        raise ValueError(
            f'beta, the momentum of the targets, must be in [0, 1), got {beta!r}; the paper uses 0.5 to 0.99.'
        )
    if not 0 <= lam < float('inf'):
        raise ValueError(
            f'lam, the strength of the regulariser, must be at least 0, got {lam!r}; the paper uses 1 to 10.'
        )


class ELRLoss(nn.Module):
    r"""Early-Learning Regularization as a loss: cross entropy + λ · mean log(1 - <p, t>).

    Each call first averages this step's detached probabilities into the targets, t ← β t + (1 - β) p, and then
    uses the new t, as the paper's algorithm does.

    Args:
        num_samples (int): Samples in the training set.
        num_classes (int): Classes.
        beta (float): Momentum β of the targets, in [0, 1). Defaults to 0.7, the paper's value for symmetric noise.
        lam (float): Strength λ of the regulariser, at least 0. Defaults to 3.0, likewise.
        dtype (str | torch.dtype): Of the stored targets, see :class:`TargetMemory`. Defaults to float32.
        storage (str): Where they are kept, see :class:`TargetMemory`. Defaults to ``'device'``.
        top_k (int): Classes kept of each target by ``storage='sparse'``. Defaults to 16.

    Examples:
        >>> criterion = ELRLoss(num_samples=50000, num_classes=10).to(device)
        >>> loss = criterion(model(images), labels, indices)
    """

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        beta: float = 0.7,
        lam: float = 3.0,
        dtype: str | torch.dtype = 'float32',
        storage: str = 'device',
        top_k: int = 16,
    ) -> None:
        super().__init__()
        check_hyperparameters(beta, lam)
        self.beta = beta
        self.lam = lam
        self.memory = TargetMemory(num_samples, num_classes, dtype, storage, top_k)

    def forward(self, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """One training step's loss. The targets change, so call it once for each step, and not in evaluation.

        Args:
            logits (Tensor): Outputs of the network, [N, C], any floating dtype.
            labels (Tensor): Class indices [N] in [0, C), or distributions over the classes, [N, C].
            indices (Tensor): Position of each sample in the training set, [N], integers, best left on the CPU.

        Returns:
            Tensor: A scalar, float32 also inside autocast (float64 for float64 logits).

        Raises:
            IndexError: An index outside the memory.
            ValueError: Shapes that do not fit, or labels outside [0, C).
            FloatingPointError: NaN or Inf logits.
        """
        labels = check_labels(labels, logits)
        p = probabilities(logits)  # one softmax for the memory and the loss
        q = p.detach()
        t = self.memory.update(indices, q / q.sum(dim=1, keepdim=True), self.beta)
        return cross_entropy(logits, labels) + self.lam * elr_regularizer(p, t)

    def extra_repr(self) -> str:
        return f'beta={self.beta}, lam={self.lam}'
