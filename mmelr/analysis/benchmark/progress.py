"""What a benchmark says while it runs: a line for each cell, and the time left."""

from __future__ import annotations

import statistics
import time
from collections.abc import Hashable, Iterable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

__all__ = ['BenchmarkProgress', 'duration', 'time_left']


def time_left(
    queued: Iterable[Hashable],
    running: Iterable[tuple[Hashable, float, float]],
    finished: Mapping[Hashable, list[float]],
    jobs: int,
) -> float | None:
    """Seconds that a grid still takes.

    A run takes as long as finished ones of its kind did; of a kind that has none finished, as long as one
    that runs is on the way to; and of an unknown kind as long as the others on average.

    Args:
        queued (Iterable): The kind of each run that has not begun.
        running (Iterable): Kind, seconds so far and share done of each that runs.
        finished (Mapping): Seconds of finished runs, by kind.
        jobs (int): Runs at a time.

    Returns:
        float | None: None while nothing is known.
    """
    queued, running = list(queued), list(running)
    known = {kind: statistics.mean(seconds) for kind, seconds in finished.items() if seconds}
    for kind, seconds, share in running:
        if share > 0.05 and not finished.get(kind):
            known[kind] = seconds / share
    if not known:
        return None
    usual = statistics.mean(known.values())
    of_running = [max(known.get(kind, usual) - seconds, 0) for kind, seconds, _ in running]
    of_queued = [known.get(kind, usual) for kind in queued]
    # The longest run that is under way ends no sooner, however many jobs there are.
    return max(sum(of_running + of_queued) / jobs, max(of_running, default=0))


def duration(seconds: float) -> str:
    """Seconds in words: ``1 h 05 min``."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f'{minutes // 60} h {minutes % 60:02d} min'
    return f'{minutes} min' if seconds >= 90 else f'{seconds:.0f} s'


class BenchmarkProgress:
    """In a terminal a bar below the lines, elsewhere the lines alone.

    Args:
        total (int): Cells.
        console (Console): Where it is shown.
    """

    def __init__(self, total: int, console: Console) -> None:
        self.total, self.done, self.failed, self.left = total, 0, 0, None
        self._console = console
        columns = (TextColumn('{task.completed:.0f}/{task.total} cells'), BarColumn(), TextColumn('{task.description}'))
        self._bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> BenchmarkProgress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task('', total=self.total, completed=self.done)
        self._began = time.monotonic()
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def result(self, text: str, ok: bool = True) -> None:
        """Count a cell that has ended, and print its line."""
        self.done += ok
        self.failed += not ok
        left = f'  ({duration(self.left)} left)' if self.left else ''
        width = len(str(self.total))
        self.say(f'[{self.done:{width}d}/{self.total}] {text}{left if self._bar is None else ""}')

    def show(self, running: int, left: float | None) -> None:
        """Bring the bar up to date."""
        self.left = left
        if self._bar is not None:
            words = [f'{running} running', f'{duration(time.monotonic() - self._began)} so far']
            words += [f'{self.failed} failed'] * bool(self.failed) + ([f'{duration(left)} left'] if left else [])
            self._bar.update(self._task, completed=self.done, description=', '.join(words))
