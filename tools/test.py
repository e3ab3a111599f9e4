"""Test a checkpoint: MMPretrain's tools/test.py with mmelr imported, and with its flags.

CONFIG is a file, or mmpretrain::FOLDER/NAME.py for a config that comes with MMPretrain.
"""

from __future__ import annotations

import sys

import mmelr
from mmelr.cli import fail_early, mmpretrain_tool

if __name__ == '__main__':
    with fail_early():
        # The config is the first positional argument, and the only one that could name a package.
        sys.argv[1:] = [mmelr.load_config(a).filename if '::' in a else a for a in sys.argv[1:]]
    mmpretrain_tool('test')['main']()
