"""What noise did to a run: its curves and its figures."""

from .runs import Run, plot_runs, read_run

__all__ = ['Run', 'plot_runs', 'read_run']
