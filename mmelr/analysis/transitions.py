"""Which class was labelled as which: transition matrices for people to read."""

from __future__ import annotations

from os import PathLike

import numpy as np

from ..noise import NoiseRecord, transition_matrix

__all__ = ['format_transition_matrix', 'plot_transition_matrix']

_MOST_IN_TEXT = 20  # a wider table wraps in a terminal


def format_transition_matrix(record: NoiseRecord, classes: list[str]) -> str:
    """A table, or for more than 20 classes the 20 most frequent confusions.

    Args:
        record (NoiseRecord): Labels of which the clean ones are known.
        classes (list[str]): Names of the classes.

    Returns:
        str: Lines of text.
    """
    matrix = transition_matrix(record.clean_label, record.noisy_label, record.num_classes)
    width = min(12, max(len(c) for c in classes))
    names = [c[:width] for c in classes]
    if len(classes) <= _MOST_IN_TEXT:
        cells = [f'{"":{width}s} ' + ' '.join(f'{n[:5]:>5s}' for n in names)]
        cells += [f'{n:>{width}s} ' + ' '.join(f'{p:5.2f}' for p in row) for n, row in zip(names, matrix, strict=True)]
        return '\n'.join(cells)
    off_diagonal = matrix * (1 - np.eye(len(matrix)))
    largest = np.argsort(off_diagonal, axis=None)[::-1][:_MOST_IN_TEXT]
    pairs = [np.unravel_index(i, matrix.shape) for i in largest]
    return '\n'.join(f'{classes[i]} -> {classes[j]}: {matrix[i, j]:.3f}' for i, j in pairs if matrix[i, j] > 0)


def plot_transition_matrix(record: NoiseRecord, classes: list[str], path: str | PathLike) -> None:
    """Draw the matrix as a heat map.

    Args:
        record (NoiseRecord): Labels of which the clean ones are known.
        classes (list[str]): Names of the classes.
        path (str | PathLike): Where the picture goes, e.g. a .png.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    matrix = transition_matrix(record.clean_label, record.noisy_label, record.num_classes)
    figure = Figure(figsize=(7, 6), layout='constrained')
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    image = axis.imshow(matrix, vmin=0, vmax=1, cmap='Blues')
    figure.colorbar(image, label='P(label | true class)')
    axis.set(xlabel='label', ylabel='true class', title=record.summary().replace(': ', '\n', 1))
    axis.title.set_fontsize(9)
    if len(classes) <= 30:  # more names than that overlap
        axis.set_xticks(range(len(classes)), classes, rotation=90)
        axis.set_yticks(range(len(classes)), classes)
    if len(classes) <= 12:
        for i, j in np.argwhere(matrix >= 0.005):
            axis.text(j, i, f'{matrix[i, j]:.2f}', ha='center', va='center', fontsize=8,
                      color='white' if matrix[i, j] > 0.5 else 'black')  # fmt: skip
    figure.savefig(path, dpi=120)
