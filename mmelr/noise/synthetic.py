"""Synthetic label noise. Each model is a function of labels with a fixed seed.

All randomness comes from ``numpy.random.RandomState``: NumPy has frozen its stream for good, while
``Generator`` may change from one release to the next. Noise drawn today can be drawn again in
years. Integers are drawn as int64, because the default differs between platforms.
"""

from __future__ import annotations

import operator
import os
import reprlib
from pathlib import Path

import numpy as np

from ..serialization import check_file, malformed
from .checks import check_labels, check_matrix, check_rate, check_seed
from .files import check_suffix, load_numpy
from .instance import InstanceNoise, sample_rows
from .mappings import check_mapping_name, get_mapping

__all__ = ['AsymmetricNoise', 'InstanceNoise', 'SymmetricNoise', 'TransitionNoise']


class SymmetricNoise:
    """Gives a share of the samples a label drawn uniformly, whatever their class.

    Two conventions are in use. In the paper, in its published code and in DivideMix the new label
    is one of **all** C classes, so that about ``rate * (C - 1) / C`` of the labels end up wrong.
    Other papers draw from the C - 1 other classes, so that exactly ``rate`` of them are wrong.

    Args:
        rate (float): Share of the samples that get a new label, in [0, 1]. It holds exactly:
            ``round(rate * n)`` of n samples.
        seed (int): Seed in [0, 2**32). Defaults to 0.
        include_true (bool): Whether the true class can be drawn, the paper's convention.
            Defaults to True.
    """

    needs_images = False

    def __init__(self, rate: float, seed: int = 0, include_true: bool = True) -> None:
        if not isinstance(include_true, bool):
            raise ValueError(f'include_true must be True or False, but is {include_true!r}')
        self.rate = check_rate(rate)
        self.seed = check_seed(seed)
        self.include_true = include_true

    def __call__(self, labels: np.ndarray, num_classes: int, images: np.ndarray | None = None) -> np.ndarray:
        """Draws noisy labels.

        Args:
            labels (np.ndarray): Clean labels, integers in [0, num_classes), shape [n].
            num_classes (int): Number of classes C.
            images (np.ndarray | None): Not used.

        Returns:
            np.ndarray: Noisy labels, int64, shape [n].

        Raises:
            ValueError: If the labels are invalid.
        """
        noisy = check_labels(labels, num_classes)
        rng = np.random.RandomState(self.seed)
        chosen = _choose(rng, np.arange(len(noisy), dtype=np.int64), self.rate)
        if self.include_true:
            noisy[chosen] = rng.randint(num_classes, size=len(chosen), dtype=np.int64)
        else:
            # A uniform step of 1 to C - 1 reaches every other class alike, and never the true one.
            steps = rng.randint(1, num_classes, size=len(chosen), dtype=np.int64)
            noisy[chosen] = (noisy[chosen] + steps) % num_classes
        return noisy

    def __repr__(self) -> str:
        return f'SymmetricNoise(rate={self.rate}, seed={self.seed}, include_true={self.include_true})'


class AsymmetricNoise:
    """Flips a share of each class to the one class that it is mistaken for.

    Args:
        rate (float): Share of each class of the mapping that flips, in [0, 1]. It holds exactly:
            ``round(rate * n_c)`` of the n_c samples of class c, as in the published code.
        mapping (dict[int, int] | str): From each class that flips to the class it flips to (keys
            may be strings of integers, as JSON writes them), or a name that
            :func:`mmelr.noise.get_mapping` knows.
        seed (int): Seed in [0, 2**32). Defaults to 0.
    """

    needs_images = False

    def __init__(self, rate: float, mapping: dict[int, int] | str, seed: int = 0) -> None:
        self.rate = check_rate(rate)
        self.seed = check_seed(seed)
        if isinstance(mapping, str):
            check_mapping_name(mapping)
            self.mapping = mapping
        else:
            self.mapping = _check_mapping(mapping)

    def __call__(self, labels: np.ndarray, num_classes: int, images: np.ndarray | None = None) -> np.ndarray:
        """Draws noisy labels.

        Args:
            labels (np.ndarray): Clean labels, integers in [0, num_classes), shape [n].
            num_classes (int): Number of classes C.
            images (np.ndarray | None): Not used.

        Returns:
            np.ndarray: Noisy labels, int64, shape [n].

        Raises:
            ValueError: If the labels are invalid, or the mapping is not one of these classes.
        """
        labels = check_labels(labels, num_classes)
        if isinstance(self.mapping, str):
            mapping = get_mapping(self.mapping, num_classes)
        else:
            mapping = self.mapping
            for source, target in mapping.items():
                if not 0 <= source < num_classes or not 0 <= target < num_classes:
                    raise ValueError(
                        f'mapping sends class {source} to class {target}, but the '
                        f'classes are 0 to {num_classes - 1}: correct the mapping'
                    )
        noisy = labels.copy()
        rng = np.random.RandomState(self.seed)
        for source in sorted(mapping):
            chosen = _choose(rng, np.flatnonzero(labels == source).astype(np.int64), self.rate)
            noisy[chosen] = mapping[source]
        return noisy

    def __repr__(self) -> str:
        return f'AsymmetricNoise(rate={self.rate}, mapping={self.mapping!r}, seed={self.seed})'


class TransitionNoise:
    """Draws each noisy label from its class's row of a transition matrix.

    Args:
        matrix (list | np.ndarray | str | os.PathLike): ``matrix[i][j]`` is the probability that a
            sample of class i is labelled j; shape [C, C], every row sums to 1. Or the path of a
            .npy, .csv (commas) or .txt (spaces) file of it, which is read when labels are drawn.
        seed (int): Seed in [0, 2**32). Defaults to 0.
    """

    needs_images = False

    def __init__(self, matrix: list | np.ndarray | str | os.PathLike, seed: int = 0) -> None:
        self.seed = check_seed(seed)
        if isinstance(matrix, (str, os.PathLike)):
            self.matrix = check_suffix(matrix, ('.npy', '.csv', '.txt'), 'transition matrix')
        else:
            self.matrix = check_matrix(matrix, 'transition matrix')

    def __call__(self, labels: np.ndarray, num_classes: int, images: np.ndarray | None = None) -> np.ndarray:
        """Draws noisy labels.

        Args:
            labels (np.ndarray): Clean labels, integers in [0, num_classes), shape [n].
            num_classes (int): Number of classes C.
            images (np.ndarray | None): Not used.

        Returns:
            np.ndarray: Noisy labels, int64, shape [n].

        Raises:
            FileNotFoundError: If the matrix is a file that does not exist.
            ValueError: If the labels are invalid, or the matrix is not one of these classes.
        """
        labels = check_labels(labels, num_classes)
        matrix = self.matrix if isinstance(self.matrix, np.ndarray) else read_matrix(self.matrix)
        if len(matrix) != num_classes:
            raise ValueError(
                f'transition matrix has {len(matrix)} classes, but the data set has '
                f'{num_classes}: give a {num_classes} x {num_classes} matrix'
            )
        uniform = np.random.RandomState(self.seed).random_sample(len(labels))
        noisy = np.empty_like(labels)
        for label in np.unique(labels):
            rows = labels == label
            noisy[rows] = sample_rows(matrix[label], uniform[rows])
        return noisy

    def __repr__(self) -> str:
        is_array = isinstance(self.matrix, np.ndarray)
        # A large matrix is abbreviated: this goes into the one-line summary of a NoiseRecord.
        matrix = reprlib.repr(self.matrix.tolist()) if is_array else repr(str(self.matrix))
        return f'TransitionNoise(matrix={matrix}, seed={self.seed})'


def _choose(rng: np.random.RandomState, rows: np.ndarray, rate: float) -> np.ndarray:
    """Picks exactly ``round(rate * len(rows))`` of ``rows`` (int64) at random."""
    return rng.permutation(rows)[: round(rate * len(rows))]


def _check_mapping(mapping: dict[int, int]) -> dict[int, int]:
    if not isinstance(mapping, dict) or not mapping:
        raise ValueError(
            'mapping must be a dict {class: class} with at least one class, or the '
            f'name of a mapping, but is {mapping!r}'
        )
    checked = {}
    for source, target in mapping.items():
        try:
            # int() takes strings, operator.index() integers; neither lets 1.5 pass.
            pair = [int(c) if isinstance(c, str) else operator.index(c) for c in (source, target)]
        except (TypeError, ValueError):
            raise ValueError(
                f'mapping {{{source!r}: {target!r}}}: classes must be integers, or strings of integers'
            ) from None
        if pair[0] == pair[1]:
            raise ValueError(f'mapping sends class {pair[0]} to itself: leave it out')
        if pair[0] in checked:
            raise ValueError(f'mapping has class {pair[0]} twice (as a string and as an integer?)')
        checked[pair[0]] = pair[1]
    return checked


def read_matrix(path: Path) -> np.ndarray:
    """Reads a transition matrix.

    Args:
        path (Path): A .npy, .csv (commas) or .txt (spaces) file.

    Returns:
        np.ndarray: float64 [C, C], checked by :func:`check_matrix`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds anything else. The message names it.
    """
    if path.suffix.lower() == '.npy':
        matrix = load_numpy(path)
    else:
        check_file(path)
        try:
            delimiter = ',' if path.suffix.lower() == '.csv' else None
            # utf-8-sig: spreadsheets begin their files with a byte order mark.
            matrix = np.loadtxt(path, delimiter=delimiter, ndmin=2, encoding='utf-8-sig')
        except Exception as error:
            raise malformed(path, error) from error
    return check_matrix(matrix, f'transition matrix {path}')
