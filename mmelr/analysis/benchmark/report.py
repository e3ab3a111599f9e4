"""Tables of a benchmark: mean and standard deviation over the seeds."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Sequence

from .grid import Cell

__all__ = ['FIGURES', 'Figure', 'display_name', 'figure_table', 'grid_of_two', 'tables', 'versions']

_NAMES = {
    'ce': 'cross entropy',
    'bootstrap-soft': 'Bootstrap, soft',
    'bootstrap-hard': 'Bootstrap, hard',
    'forward': 'Forward, T known',
    'forward-estimated': 'Forward, T estimated',
    'backward': 'Backward, T known',
    'gce': 'GCE',
    'gce-truncated': 'GCE, truncated',
    'sl': 'SL',
    'elr': 'ELR',
    'elr*': 'ELR*',
    'elr+': 'ELR+',
}


class Figure:
    """A quantity that a run has, and how it is told.

    Args:
        title (str): Of its table.
        value (Callable): From a result to a number, None where it has none.
        digits (int): Behind the point.
        best (bool): Whether the largest mean of a column is set in bold.
    """

    def __init__(self, title: str, value: Callable[[dict], float | None], digits: int = 2, best: bool = False) -> None:
        self.title, self.value, self.digits, self.best = title, value, digits, best

    def of(self, results: dict[Cell, dict], row: tuple, noise: str) -> list[float]:
        """Of all seeds that have it."""
        values = (self.value(result) for cell, result in results.items() if (cell.row, cell.noise) == (row, noise))
        return [value for value in values if value is not None]

    def text(self, values: Sequence[float], seeds: int) -> str:
        """Mean ± sample standard deviation; how many seeds, where it is not all of them."""
        if not values:
            return '-'
        spread = f' ± {statistics.stdev(values):.{self.digits}f}' if len(values) > 1 else ''
        some = f' ({len(values)} of {seeds})' if len(values) < seeds else ''
        return f'{statistics.mean(values):.{self.digits}f}{spread}{some}'


def _memorized(result: dict) -> float | None:
    share = result['wrong_labels_memorized']
    return None if share is None else 100 * share


#: What is told of the runs, by the key of its table.
FIGURES = dict(
    last=Figure('Test accuracy after the last epoch [%]', lambda r: r['last_accuracy'], best=True),
    picked=Figure(
        'Test accuracy of the epoch picked on the noisy validation split [%]', lambda r: r['picked_accuracy'], best=True
    ),
    memorized=Figure('Wrong labels memorised in the last epoch [%]', _memorized),
    # Of a run that was cut off only the last part is known.
    seconds=Figure('Seconds a run', lambda r: None if r['resumed'] else r['seconds'], digits=0),
)


def display_name(row: tuple[str, ...]) -> str:
    """A row in words: the method, and the last part of what is varied."""
    return ' '.join([_NAMES.get(row[0], row[0]), *(option.rpartition('.')[2] for option in row[1:])])


def grid_of_two(cells: Sequence[Cell]) -> tuple[str, str] | None:
    """The two keys that are varied, if there are exactly two and every row has both."""
    keys = {tuple(option.partition('=')[0] for option in cell.options) for cell in cells}
    [only] = keys if len(keys) == 1 else [()]
    return only if len(only) == 2 else None


def tables(results: dict[Cell, dict], cells: Sequence[Cell], dataset: str) -> str:
    """All tables as Markdown; where two keys are varied, one of their values for each method and noise.

    Args:
        results (dict): What was measured, by cell.
        cells (Sequence[Cell]): The whole grid.
        dataset (str): Name of the data set.

    Returns:
        str: Markdown.
    """
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    lines = [
        f'# {dataset}',
        '',
        f'Seeds {", ".join(map(str, seeds))}; mean ± sample standard deviation. Bold: best mean.',
    ]
    if len(results) < len(cells):
        lines[-1] += f' {len(cells) - len(results)} of {len(cells)} runs are missing.'
    keys = grid_of_two(cells)
    for figure in FIGURES.values():
        if not any(figure.value(result) is not None for result in results.values()):
            continue
        lines += ['', f'## {figure.title}']
        if keys is None:
            lines += ['', figure_table(figure, results, cells)]
            continue
        for method in dict.fromkeys(cell.method for cell in cells):
            for noise in dict.fromkeys(cell.noise for cell in cells):
                own = [cell for cell in cells if (cell.method, cell.noise) == (method, noise)]
                lines += ['', f'{display_name((method,))}, {noise}', '', _matrix(figure, results, own, keys)]
    return '\n'.join(lines) + '\n'


def figure_table(figure: Figure, results: dict[Cell, dict], cells: Sequence[Cell]) -> str:
    """One quantity: a row for each method and variant, a column for each noise."""
    noises = list(dict.fromkeys(cell.noise for cell in cells))
    rows = {
        display_name(row): [figure.of(results, row, noise) for noise in noises]
        for row in dict.fromkeys(cell.row for cell in cells)
    }
    return _markdown('method', noises, rows, figure, len({cell.seed for cell in cells}))


def _matrix(figure: Figure, results: dict[Cell, dict], cells: Sequence[Cell], keys: tuple[str, str]) -> str:
    first, second = (list(dict.fromkeys(cell.options[i] for cell in cells)) for i in (0, 1))
    method, noise = cells[0].method, cells[0].noise
    rows = {
        a.partition('=')[2]: [figure.of(results, (method, a, b), noise) for b in second] for a in first
    }  # fmt: skip
    names = [key.rpartition('.')[2] for key in keys]
    columns = [f'{names[1]} = {b.partition("=")[2]}' for b in second]
    return _markdown(names[0], columns, rows, figure, len({cell.seed for cell in cells}), over_all=True)


def _markdown(
    corner: str, columns: list[str], rows: dict[str, list], figure: Figure, seeds: int, over_all: bool = False
) -> str:
    """A Markdown table; bold is the best of a column, or of the whole table, where there is something to compare."""
    means = [[round(statistics.mean(v), figure.digits) if v else None for v in values] for values in rows.values()]
    best = [max((row[i] for row in means if row[i] is not None), default=None) for i in range(len(columns))]
    if over_all:
        best = [max((b for b in best if b is not None), default=None)] * len(columns)
    lines = [f'| {" | ".join([corner, *columns])} |', f'|{" --- |" * (len(columns) + 1)}']
    for (name, values), of_row in zip(rows.items(), means, strict=True):
        texts = [figure.text(v, seeds) for v in values]
        for i, mean in enumerate(of_row):
            if figure.best and (len(rows) > 1 or over_all) and mean is not None and mean == best[i]:
                texts[i] = f'**{texts[i]}**'
        lines.append(f'| {" | ".join([name, *texts])} |')
    return '\n'.join(lines)


def versions() -> dict[str, str]:
    """Of what took part."""
    from importlib.metadata import version

    import mmengine
    import mmpretrain
    import torch

    from ...version import __version__

    return dict(
        mmelr=__version__,
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmpretrain=mmpretrain.__version__,
        numpy=version('numpy'),
        python=platform.python_version(),
    )
