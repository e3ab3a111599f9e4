"""What noise did to the labels and to a run: matrices, curves and figures."""

from .runs import Run, plot_runs, read_run
from .transitions import format_transition_matrix, plot_transition_matrix

__all__ = ['Run', 'format_transition_matrix', 'plot_runs', 'plot_transition_matrix', 'read_run']
