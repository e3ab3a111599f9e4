"""What every noise model asks of its arguments."""

from __future__ import annotations

import numbers

import numpy as np


def check_labels(labels: np.ndarray, num_classes: int, name: str = 'labels') -> np.ndarray:
    """Validates labels and copies them.

    Args:
        labels (np.ndarray): Integers in [0, num_classes), shape [n], n > 0.
        num_classes (int): Number of classes C, at least 2.
        name (str): What error messages call the labels.

    Returns:
        np.ndarray: The labels as a new int64 array, shape [n].

    Raises:
        ValueError: If the labels or the number of classes are anything else.
    """
    check_num_classes(num_classes)
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f'{name} must be one-dimensional, one class index per sample, but have shape {labels.shape}')
    if labels.size == 0:
        raise ValueError(f'{name} are empty: there is no sample to label')
    if not is_integer(labels):
        raise ValueError(
            f'{name} must be integers, but have dtype {labels.dtype} (first value '
            f"{labels[0]}): convert them with .astype('int64')"
        )
    position = first_outside(labels, num_classes)
    if position is not None:
        raise ValueError(
            f'{name}[{position}] is {labels[position]}, outside [0, {num_classes}): correct the label or num_classes'
        )
    return labels.astype(np.int64)


def first_outside(labels: np.ndarray, num_classes: int) -> int | None:
    """Finds the first label outside [0, num_classes).

    Args:
        labels (np.ndarray): Integers, shape [n].
        num_classes (int): Number of classes.

    Returns:
        int | None: Its position, or None if every label is inside.
    """
    outside = (labels < 0) | (labels >= num_classes)
    return int(outside.argmax()) if outside.any() else None


def is_integer(labels: np.ndarray) -> bool:
    """Whether the array holds integers. NumPy counts durations among them, which have a NaN."""
    return labels.dtype.kind in 'iu'


def check_num_classes(num_classes: int) -> None:
    """Raises ValueError unless ``num_classes`` is an integer of at least 2."""
    if not _is_int(num_classes) or num_classes < 2:
        raise ValueError(f'num_classes must be an integer of at least 2, but is {num_classes!r}')


def check_rate(rate: float, name: str = 'rate') -> float:
    """Validates a number in [0, 1].

    Args:
        rate (float): The number.
        name (str): What error messages call it.

    Returns:
        float: The same number.

    Raises:
        ValueError: If it is not a number in [0, 1].
    """
    is_number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not is_number or not 0 <= rate <= 1:
        raise ValueError(f'{name} must be a number in [0, 1], but is {rate!r} (40 % is written 0.4)')
    return float(rate)


def check_seed(seed: int) -> int:
    """Validates a seed of :class:`numpy.random.RandomState`.

    Args:
        seed (int): An integer in [0, 2**32).

    Returns:
        int: The same seed.

    Raises:
        ValueError: If it is anything else. None is refused too: noise has to be reproducible.
    """
    if not _is_int(seed) or not 0 <= seed < 2**32:
        raise ValueError(f'seed must be an integer in [0, 2**32), but is {seed!r}')
    return int(seed)


def check_matrix(matrix: list | np.ndarray, name: str) -> np.ndarray:
    """Validates a transition matrix.

    Args:
        matrix (list | np.ndarray): ``matrix[i][j]`` is the probability that a sample of class i is labelled j;
            shape [C, C], every row sums to 1.
        name (str): What error messages call it.

    Returns:
        np.ndarray: The matrix as a new float64 array, shape [C, C].

    Raises:
        ValueError: If it is anything else.
    """
    try:
        kind = np.asarray(matrix).dtype
        if kind.kind not in 'biufO':  # NumPy would drop imaginary parts, and take durations for numbers
            raise TypeError(f'it has dtype {kind}')
        matrix = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{name} must be a square table of numbers ({error})') from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f'{name} must be square, one row and one column per class, but has shape {matrix.shape}')
    valid = matrix >= 0  # False for NaN
    if not valid.all():
        row, column = np.argwhere(~valid)[0]
        raise ValueError(
            f'{name} holds {matrix[row, column]} in row {row}, column {column}: probabilities are not negative'
        )
    sums = matrix.sum(axis=1)
    wrong = np.flatnonzero(~(np.abs(sums - 1) <= 1e-6))
    if wrong.size:
        raise ValueError(
            f'row {wrong[0]} of {name} sums to {sums[wrong[0]]:.7g}: every row must '
            'sum to 1 (rows are clean classes, columns noisy ones)'
        )
    return matrix


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
