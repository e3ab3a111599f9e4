"""``LiveView``: a few lines at the bottom of the terminal that follow a run, in place of scrolling ones."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mmengine.logging import print_log
from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

__all__ = ['LiveView', 'Progress', 'draw']

#: Seconds between two pictures.
INTERVAL = 0.5
#: Columns at most. Wider would only pull labels and values apart.
WIDTH = 100
#: How lines begin that say what the view shows.
_SHOWN = ('Epoch(', 'Iter(', 'Exp name: ')


@dataclass
class Progress:
    """Where a run is.

    Args:
        title (str): Name of the run.
        phase (str): ``'training'``, ``'validation'``, ``'finished'`` or ``'stopped'``.
        place (str): Epoch and iteration, in words.
        done (int): Iterations since the beginning of the training, those before a resume included.
        total (int): Iterations of the whole training.
        elapsed (float): Seconds since this process began to train.
        left (float | None): Seconds that are left; None if unknown.
        batches (tuple[int, int] | None): While validating: batches done, and all of them.
        rows (dict[str, str]): What else is known, by label.
        message (str): The last line of the log that the view does not say itself.
    """

    title: str
    phase: str
    place: str
    done: int
    total: int
    elapsed: float
    left: float | None = None
    batches: tuple[int, int] | None = None
    rows: dict[str, str] = field(default_factory=dict)
    message: str = ''


def draw(progress: Progress) -> RenderableType:
    """Returns the picture of a run. Its colours are of the terminal's own palette, for light and dark ones."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(style='bold', width=14, overflow='fold')
    table.add_column(ratio=1, overflow='fold')
    left = '' if progress.left is None else f', {_clock(progress.left)} left'
    rows: dict[str, str | RenderableType] = {progress.phase: progress.place, '': _bar(progress.done, progress.total)}
    if progress.batches is not None:
        rows['validating'] = _bar(*progress.batches)
    rows |= {'time': _clock(progress.elapsed) + left} | progress.rows
    if progress.message:
        rows['log'] = progress.message
    for label, value in rows.items():  # Text, because what looks like rich's markup is none
        table.add_row(Text(label), Text(value) if isinstance(value, str) else value)
    return _Narrow(Panel(table, title=Text(progress.title), title_align='left'))


class _Narrow:
    """No wider than need be."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel

    def __rich_console__(self, console: Console, options):
        yield from console.render(self._panel, options.update(width=min(WIDTH, options.max_width)))


def _bar(done: int, total: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify='right', no_wrap=True)
    bar = ProgressBar(total, done, complete_style='green', finished_style='green', style='bright_black')
    grid.add_row(bar, f'{100 * done // max(total, 1)} %')
    return grid


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f'{days} d ' if days else '') + f'{hours}:{minutes:02d}:{seconds:02d}'


class LiveView(logging.Filter):
    """The terminal of a logger, and what of the log gets there.

    Until :meth:`start` it holds back the long dumps of environment, config and hooks, from then on all that is not a
    warning or an error. Those are printed above the view and stay. Files and other handlers get everything, always.
    After :meth:`close` the terminal is as it was.

    There is no thread: a picture is drawn by whoever calls :meth:`refresh`, at most every ``INTERVAL`` seconds. The
    cursor is never hidden, so that nothing has to be put right after a process that was killed.

    Args:
        handler (logging.StreamHandler): The handler that writes to the terminal.
    """

    def __init__(self, handler: logging.StreamHandler) -> None:
        super().__init__()
        #: The last line of the log that was held back while the view was there.
        self.message = ''
        self._handler, self._stream = handler, handler.stream
        # What is printed is text: nothing in it is markup.
        self._console = Console(file=self._stream, markup=False, emoji=False, highlight=False)
        self._live: Live | None = None
        self._drawn = 0.0
        self._ended = False
        handler.addFilter(self)

    @classmethod
    def on(cls, logger: logging.Logger) -> LiveView | None:
        """The view on a logger's terminal.

        Args:
            logger (logging.Logger): The logger of a run.

        Returns:
            LiveView | None: The one that is there, or a new one. None where plain lines are the thing: the output is a
            file or a pipe, the terminal cannot move its cursor or has no Unicode, this is CI, or the logger prints no
            INFO there, as those of all ranks but the first.
        """
        for handler in logger.handlers:
            if type(handler) is not logging.StreamHandler or handler.level > logging.INFO:
                continue
            found = [f for f in handler.filters if isinstance(f, cls)]
            if found:
                return found[0]
            console = Console(file=handler.stream)
            # is_interactive alone would go by FORCE_COLOR, which says nothing about moving a cursor.
            terminal = handler.stream.isatty() and console.is_interactive and not console.options.ascii_only
            if terminal and not os.environ.get('CI'):
                return cls(handler)
        return None

    @property
    def started(self) -> bool:
        """bool: Whether the view is on the screen."""
        return self._live is not None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line of the log gets to the terminal."""
        if record.levelno > logging.INFO:
            return True
        message = record.getMessage()
        if not self.started:
            return '\n' not in message
        if record.levelno == logging.INFO and not message.startswith(_SHOWN):
            self.message = message.partition('\n')[0].encode(errors='replace').decode()
        return False

    def start(self, picture: Callable[[], RenderableType]) -> None:
        """Put the view on the screen, unless it has ended before.

        Args:
            picture (Callable): Gives the present picture.
        """
        if not self._ended:
            self._try(lambda: self._start(picture))

    def _start(self, picture: Callable[[], RenderableType]) -> None:
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            get_renderable=picture,
            redirect_stdout=sys.stdout is self._stream,
            redirect_stderr=sys.stderr.isatty(),  # in a file errors stay in the file
        )
        self._live.start()
        self._console.show_cursor(True)
        self._handler.setStream(FileProxy(self._console, self._stream))
        self._live.refresh()

    def print(self, text: str) -> None:
        """Print above the view."""
        if self.started:
            self._try(lambda: self._console.print(text, soft_wrap=True))

    def refresh(self) -> None:
        """Draw, if it is time to."""
        now = time.monotonic()
        if self.started and now - self._drawn >= INTERVAL:
            self._drawn = now
            self._try(self._live.refresh)

    def _try(self, action: Callable[[], None]) -> None:
        """No trouble with a terminal or a picture is worth a training: then the view ends."""
        try:
            action()
        except Exception as e:
            self.close()
            print_log(f'The live view ended, plain lines follow: {e!r}', 'current', logging.WARNING)

    def close(self) -> None:
        """Leave the last picture on the screen, and the terminal as it was."""
        self._ended = True
        self._handler.removeFilter(self)
        live, self._live = self._live, None
        if live is None:
            return
        try:
            live.stop()
        except Exception:  # what cannot be drawn now is only the last picture
            pass
        finally:
            self._handler.setStream(self._stream)
