"""What the commands in ``tools/`` share."""

from __future__ import annotations

import runpy
import sys
from contextlib import contextmanager
from pathlib import Path

from .stack import require_openmmlab

__all__ = ['fail_early', 'mmpretrain_tool']


@contextmanager
def fail_early():
    """Print a user's mistake as one message, without a traceback, and exit with status 2."""
    try:
        yield
    except (ImportError, KeyError, OSError, TypeError, ValueError) as e:
        message = e.args[0] if isinstance(e, KeyError) and e.args else e
        print(f'{Path(sys.argv[0]).name}: {message}', file=sys.stderr)
        raise SystemExit(2) from e


def mmpretrain_tool(name: str) -> dict:
    """The functions of one of MMPretrain's own commands, so that flags and their meanings are MMPretrain's.

    Args:
        name (str): ``'train'`` or ``'test'``.

    Returns:
        dict: The globals of the script, ``parse_args``, ``merge_args`` and ``main`` among them.
    """
    with fail_early():
        require_openmmlab()
        import mmpretrain

        script = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / f'{name}.py'
        if not script.is_file():
            raise FileNotFoundError(
                f'MMPretrain in {script.parent.parent.parent} comes without its tools ({script} is missing). '
                "Install the released package: pip install 'mmpretrain>=1.2.0'."
            )
        return runpy.run_path(str(script))
