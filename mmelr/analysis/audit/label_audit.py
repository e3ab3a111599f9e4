"""What an audit of labels found out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ['Estimate', 'LabelAudit']


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value (float): The number.
        low (float): Lower end of the interval.
        high (float): Upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class LabelAudit:
    """The labels of a training set of m samples and C classes, and how far a run distrusts each of them.

    Attributes:
        title (str): What was audited, e.g. ``'elr_digits, epoch 60'``.
        method (str): ``'ELR'``, ``'ELR+'`` or ``'a network trained without ELR'``.
        classes (tuple[str, ...]): Names of the C classes, any strings.
        sample_idx (np.ndarray): int64 [m], number of each sample in the whole dataset, ascending.
        paths (tuple[str, ...]): [m], file of each image, '' where it has none; any strings.
        given (np.ndarray): int64 [m] in [0, C), the labels that were audited.
        suggested (np.ndarray): int64 [m] in [0, C), the labels that the run suggests.
        score (np.ndarray): float64 [m] in [0, 1], how sure the run is that the given label is wrong.
        threshold (float): Labels with ``score >= threshold`` are distrusted.
        noise_rate (Estimate): Share of wrong labels.
        class_noise (tuple[Estimate, ...]): [C], for each given class the share of its labels that are wrong.
        transition (np.ndarray): float64 [C, C], P(given = column | true = row). A row is zero where no sample is of
            that class.
        transition_low (np.ndarray): float64 [C, C], lower ends of the 95 % intervals.
        transition_high (np.ndarray): float64 [C, C], upper ends.
        remarks (tuple[str, ...]): Sentences for the reader, e.g. that plain cross entropy is weaker.
        clean (np.ndarray | None): int64 [m], the correct labels where they are known.
    """

    title: str
    method: str
    classes: tuple[str, ...]
    sample_idx: np.ndarray
    paths: tuple[str, ...]
    given: np.ndarray
    suggested: np.ndarray
    score: np.ndarray
    threshold: float
    noise_rate: Estimate
    class_noise: tuple[Estimate, ...]
    transition: np.ndarray
    transition_low: np.ndarray
    transition_high: np.ndarray
    remarks: tuple[str, ...] = ()
    clean: np.ndarray | None = None

    @property
    def distrusted(self) -> np.ndarray:
        """np.ndarray: bool [m], the labels that the audit distrusts."""
        return self.score >= self.threshold
