"""Configs by their names: files, and those that come with MMPretrain."""

from __future__ import annotations

import difflib
from pathlib import Path

import mmpretrain
from mmengine.config import Config

__all__ = ['load_config']


def load_config(path: str) -> Config:
    """Read a config file, one of MMPretrain's included.

    Args:
        path (str): A file, or ``mmpretrain::FOLDER/NAME.py`` for a config that comes with MMPretrain.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: No such file; the message names MMPretrain configs like it.
    """
    package, _, name = str(path).rpartition('::')
    if not package:
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"No config file {path}. MMPretrain's own are named mmpretrain::FOLDER/NAME.py, "
                'e.g. mmpretrain::resnet/resnet18_8xb16_cifar10.py.'
            )
        return Config.fromfile(path)
    if package != 'mmpretrain':
        raise FileNotFoundError(f"Only MMPretrain's configs can be named by package, as mmpretrain::..., got {path}.")
    folder = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
    file = folder / (name if name.endswith('.py') else f'{name}.py')
    if not file.is_file():
        names = [str(f.relative_to(folder)) for f in folder.glob('*/*.py')]
        alike = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        raise FileNotFoundError(
            f'MMPretrain {mmpretrain.__version__} has no config {name}.'
            + (f' Did you mean {", ".join(alike)}?' if alike else f' They are in {folder}.')
        )
    return Config.fromfile(str(file))
