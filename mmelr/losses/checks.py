"""What every loss asks of its arguments, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

from ..noise.checks import check_matrix

__all__ = ['check_indices', 'check_labels', 'check_range', 'check_transition', 'loss_of_label', 'rows_of']


def check_range(name: str, value: float, low: float, high: float, meaning: str, open_ends: bool = False) -> None:
    """Refuse a hyperparameter outside [low, high], or outside (low, high).

    Args:
        name (str): Of the argument.
        value (float): What was given.
        low (float): Lower end.
        high (float): Upper end; an infinite one never belongs to the range.
        meaning (str): What it is and what is published, for the message.
        open_ends (bool): Whether the ends are outside. Defaults to False.

    Raises:
        ValueError: Names the value, the range and the meaning.
    """
    fits = isinstance(value, Real) and not isinstance(value, bool)
    if fits:
        fits = low < value < high if open_ends else low <= value <= high and abs(value) != float('inf')
    if not fits:
        left, right = '(' if open_ends else '[', ')' if open_ends or high == float('inf') else ']'
        raise ValueError(f'{name} must be a number in {left}{low:g}, {high:g}{right}, got {value!r}. {meaning}')


def check_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Refuse labels that do not fit the logits, before anything is changed by them.

    Values on an accelerator are left to the assertions of PyTorch's kernels, so as not to wait for them.

    Args:
        labels (Tensor): Class indices [N] in [0, C), of any integer type, or distributions [N, C].
        logits (Tensor): [N, C].

    Returns:
        Tensor: The labels; indices as int64.

    Raises:
        ValueError: Names the shape, or the first label outside.
    """
    num_classes = logits.shape[1]
    if labels.is_floating_point():
        if labels.shape != logits.shape:
            raise ValueError(
                f'Soft labels must have the shape of the logits, {tuple(logits.shape)}; got {tuple(labels.shape)}. '
                'Class indices must be integers.'
            )
        return labels
    if labels.shape != logits.shape[:1]:
        raise ValueError(f'Labels must be {len(logits)} class indices, one for each row; got {tuple(labels.shape)}.')
    if labels.device.type == 'cpu':
        outside = labels[(labels < 0) | (labels >= num_classes)]
        if len(outside):
            raise ValueError(
                f'Label {int(outside[0])} is outside [0, {num_classes}): {num_classes} classes are numbered from 0. '
                'Is num_classes right, or do labels start at 1?'
            )
    return labels.long()


def check_indices(indices: Tensor, num_samples: int, num_logits: int) -> None:
    """Refuse indices that are not one place in the training set for each row of the logits.

    Args:
        indices (Tensor): [N], integers.
        num_samples (int): Samples in the training set.
        num_logits (int): N.

    Raises:
        ValueError: A wrong shape or type.
        IndexError: Names the first index outside. On an accelerator an assertion ends the program, so as not to wait.
    """
    if indices.shape != (num_logits,) or indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(
            f'indices must be {num_logits} integers, one for each row of the logits; '
            f'got shape {tuple(indices.shape)} of {indices.dtype}.'
        )
    indices = indices.long()  # num_samples may not fit into a narrow type
    known = (indices >= 0) & (indices < num_samples)
    mend = 'Give the size of the whole training set as num_samples, and as indices positions in that set.'
    if indices.device.type != 'cpu':
        torch._assert_async(known.all(), f'A sample index is outside [0, {num_samples}). {mend}')
    elif not known.all():
        raise IndexError(f'Sample index {int(indices[~known][0])} is outside [0, {num_samples}). {mend}')


def check_transition(matrix: Tensor | list, num_classes: int | None = None) -> Tensor:
    """Check a transition matrix.

    Args:
        matrix (Tensor | np.ndarray | list): T, [C, C]; T[i, j] is the probability that a sample of the true class i is
            given the label j.
        num_classes (int, optional): C, where it is known.

    Returns:
        Tensor: T, float64 on the CPU, a copy.

    Raises:
        ValueError: It is not square, negative or not finite somewhere, a row does not sum to one, or it has another
            number of classes.
    """
    if isinstance(matrix, Tensor):
        matrix = matrix.detach().double().cpu().numpy()
    checked = torch.from_numpy(check_matrix(matrix, 'transition'))
    if num_classes is not None and len(checked) != num_classes:
        raise ValueError(f'transition has {len(checked)} classes, but there are {num_classes}: one row for each.')
    return checked


def loss_of_label(log_p: Tensor, labels: Tensor, loss: Callable[[Tensor], Tensor] = torch.neg) -> Tensor:
    """The loss of each sample's label, averaged over a soft label.

    Args:
        log_p (Tensor): Logarithms of the probabilities, [N, C].
        labels (Tensor): What :func:`check_labels` returns.
        loss (Callable): The loss of labels, from the logarithms of their probabilities, of any shape. Of class indices
            it is computed for these alone. Defaults to cross entropy, -log p.

    Returns:
        Tensor: [N].
    """
    if labels.dim() == 2:
        return (labels.to(log_p.dtype) * loss(log_p)).sum(dim=1)
    return loss(log_p.gather(1, labels[:, None]).squeeze(1))


def rows_of(matrix: Tensor, labels: Tensor) -> Tensor:
    """The row of each sample's label.

    A gather, because on an accelerator it asserts that the labels are inside, where an index of -1 would be the last.

    Args:
        matrix (Tensor): [C, C].
        labels (Tensor): int64 [N].

    Returns:
        Tensor: [N, C].
    """
    n, c = len(labels), len(matrix)
    return matrix.expand(n, c, c).gather(1, labels[:, None, None].expand(n, 1, c)).squeeze(1)
