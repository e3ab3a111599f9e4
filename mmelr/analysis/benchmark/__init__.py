"""Methods compared on the same data, noise, network and budget: ``tools/benchmark.py``."""

from .cells import RESULT, check_settings, epochs_done, read_result, run_cell, settings_of
from .figures import plot_benchmark, plot_heat_map
from .grid import Cell, cell_config, fold_of, idle_hooks, make_grid, parse_methods, parse_noises, parse_seeds, variants
from .progress import BenchmarkProgress, duration, time_left
from .report import display_name, grid_of_two, tables, versions

__all__ = [
    'RESULT', 'BenchmarkProgress', 'Cell', 'cell_config', 'check_settings', 'display_name', 'duration', 'epochs_done',
    'fold_of', 'grid_of_two', 'idle_hooks', 'make_grid', 'parse_methods', 'parse_noises', 'parse_seeds',
    'plot_benchmark', 'plot_heat_map', 'read_result', 'run_cell', 'settings_of', 'tables', 'time_left', 'variants',
    'versions',
]  # fmt: skip
