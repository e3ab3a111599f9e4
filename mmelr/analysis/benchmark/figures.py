"""Pictures of a benchmark: accuracy against the noise rate, and heat maps of two hyperparameters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from os import PathLike

from ...noise import parse_noise
from .grid import Cell
from .report import FIGURES, display_name, grid_of_two

__all__ = ['plot_benchmark', 'plot_heat_map']

# Okabe and Ito's colours, which colour-blind people tell apart too; line styles and markers tell further ones apart.
_COLOURS = ('#000000', '#E69F00', '#56B4E9', '#009E73', '#CC79A7', '#D55E00', '#0072B2')
_MARKERS, _STYLES = 'osD^vPX*<>hp', ('-', '--', ':')
_PANELS = dict(last='last epoch', picked='epoch picked on noisy validation')


def _canvas(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _shown(results: dict[Cell, dict]) -> list[str]:
    return [key for key in _PANELS if any(FIGURES[key].value(result) is not None for result in results.values())]


def plot_benchmark(results: dict[Cell, dict], path: str | PathLike, title: str = '') -> None:
    """Draw test accuracy, mean and standard deviation over the seeds: a column for each kind of noise.

    Where a kind has several rates the accuracy is drawn against them, a line for each method or variant; where it has
    one, the methods stand side by side. Rows: after the last epoch, and of the picked epoch.

    Args:
        results (dict): Results by cell, at least one.
        path (str | PathLike): Where the picture goes, e.g. a .png.
        title (str): Title of the figure.
    """
    kinds: dict[str, dict[str, float]] = {}
    for noise in dict.fromkeys(cell.noise for cell in results):
        # One panel for noises that differ in nothing but the rate.
        arguments = parse_noise(noise) or {}
        form, _, options = noise.partition(':')
        kind = f'{form} {options.partition(",")[2]}'.strip() if 'rate' in arguments else noise
        kinds.setdefault(kind, {})[noise] = 100 * arguments.get('rate', 0)
    rows, shown = list(dict.fromkeys(cell.row for cell in results)), _shown(results)
    widths = [3.9 if len(rates) > 1 else 1.2 + 0.27 * len(rows) for rates in kinds.values()]
    figure = _canvas(2.4 + sum(widths), 0.9 + 3.1 * len(shown))
    axes = figure.subplots(
        len(shown), len(kinds), sharex='col', sharey='row', squeeze=False, width_ratios=widths
    )  # fmt: skip
    for line, key in zip(axes, shown, strict=True):
        line[0].set_ylabel(f'test accuracy [%]\n{_PANELS[key]}')
        for axis, rates in zip(line, kinds.values(), strict=True):
            for i, row in enumerate(rows):
                _draw(axis, i, len(rows), {rate: FIGURES[key].of(results, row, n) for n, rate in rates.items()}, row)
            axis.grid(alpha=0.3, axis='both' if len(rates) > 1 else 'y')
            axis.spines[['top', 'right']].set_visible(False)
            if len(rates) == 1:
                axis.set_xticks(range(len(rows)), [display_name(row) for row in rows], rotation=90, fontsize='small')
            else:
                axis.set_xticks(sorted(rates.values()))
    for axis, (kind, rates) in zip(axes[0], kinds.items(), strict=True):
        form, _, options = kind.partition(' ')
        [*_, rate] = rates.values()
        rate = f' {rate:g} %' if len(rates) == 1 and rate else ''
        axis.set_title('\n'.join(filter(None, [f'{form}{rate}', options])))
    for axis, rates in zip(axes[-1], kinds.values(), strict=True):
        axis.set_xlabel('noise rate [%]' if len(rates) > 1 else '')
    handles = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = [name for name in map(display_name, rows) if name in handles]
    figure.legend([handles[name] for name in order], order, loc='outside right center', fontsize='small')
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _draw(axis, i: int, rows: int, values: dict[float, list[float]], row: tuple[str, ...]) -> None:
    """One method in one panel."""
    rates = sorted(rate for rate, of_rate in values.items() if of_rate)
    if not rates:
        return
    means = [statistics.mean(values[rate]) for rate in rates]
    spreads = [statistics.stdev(values[rate]) if len(values[rate]) > 1 else 0 for rate in rates]
    # A little apart, so that error bars of equal methods do not hide each other.
    span = max(values) - min(values)
    places = [rate + (i - (rows - 1) / 2) * span / 250 for rate in rates] if len(values) > 1 else [i]
    axis.errorbar(
        places, means, spreads, label=display_name(row), color=_COLOURS[i % len(_COLOURS)], markersize=5, capsize=2,
        linewidth=1.4, elinewidth=1, marker=_MARKERS[i % len(_MARKERS)],
        linestyle=_STYLES[i // len(_COLOURS) % len(_STYLES)] if len(values) > 1 else 'none',
    )  # fmt: skip


def plot_heat_map(results: dict[Cell, dict], cells: Sequence[Cell], path: str | PathLike, title: str = '') -> None:
    """Draw test accuracy over the values of the two keys that were varied: a column for each method and noise.

    Args:
        results (dict): Results by cell, at least one.
        cells (Sequence[Cell]): The whole grid, of two keys.
        path (str | PathLike): Where the picture goes, e.g. a .png.
        title (str): Title of the figure.
    """
    import numpy as np

    keys = grid_of_two(cells)
    first, second = (list(dict.fromkeys(cell.options[i] for cell in cells)) for i in (0, 1))
    maps, shown = list(dict.fromkeys((cell.method, cell.noise) for cell in cells)), _shown(results)
    size = (1.1 + 0.72 * len(second), 1.0 + 0.5 * len(first))
    figure = _canvas(max(size[0] * len(maps) + 1.1, 5), size[1] * len(shown) + 0.5)
    axes = figure.subplots(len(shown), len(maps), sharex=True, sharey=True, squeeze=False)
    for line, key in zip(axes, shown, strict=True):
        for axis, (method, noise) in zip(line, maps, strict=True):
            values = [[FIGURES[key].of(results, (method, a, b), noise) for b in second] for a in first]
            means = np.array([[statistics.mean(v) if v else np.nan for v in of_row] for of_row in values])
            image = axis.imshow(means, cmap='viridis', aspect='auto')
            middle = (np.nanmin(means) + np.nanmax(means)) / 2 if np.isfinite(means).any() else 0
            for (y, x), mean in np.ndenumerate(means):
                colour = 'black' if mean > middle else 'white'
                axis.text(x, y, f'{mean:.1f}' if np.isfinite(mean) else '', ha='center', va='center', color=colour)
            axis.set_title(f'{display_name((method,))}, {noise}\n{_PANELS[key]}', fontsize='medium')
            figure.colorbar(image, ax=axis, label='test accuracy [%]')
    for axis in axes[-1]:
        axis.set_xlabel(keys[1].rpartition('.')[2])
        axis.set_xticks(range(len(second)), [option.partition('=')[2] for option in second])
    for axis in axes[:, 0]:
        axis.set_ylabel(keys[0].rpartition('.')[2])
        axis.set_yticks(range(len(first)), [option.partition('=')[2] for option in first])
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
