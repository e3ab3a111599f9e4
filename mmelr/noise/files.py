"""NumPy files as data: nothing in them is ever unpickled, and every error names the file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

_NPY_MAGIC = b'\x93NUMPY'
_ZIP_MAGICS = (b'PK\x03\x04', b'PK\x05\x06')  # the second of an archive without members
_PICKLE_MAGIC = b'\x80'


def check_file(path: Path) -> None:
    """Raises FileNotFoundError unless ``path`` is a file."""
    if not path.is_file():
        raise FileNotFoundError(f'no such file: {path.absolute()}')


def check_suffix(path: str | os.PathLike, suffixes: tuple[str, ...], what: str) -> Path:
    """Validates a file name, without opening the file.

    Args:
        path (str | os.PathLike): The file.
        suffixes (tuple[str, ...]): The suffixes that can be read, in lower case.
        what (str): What the file holds, for error messages.

    Returns:
        Path: The path.

    Raises:
        ValueError: If the suffix is none of them, or ``path`` is no path at all.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f'{what}: expected the path of a file, but got {path!r}')
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f'{what} {path}: cannot read files with the suffix {path.suffix!r}; supported are {", ".join(suffixes)}'
        )
    return path


def unsafe(path: Path, reason: str) -> ValueError:
    """The error for a file that only unpickling could read."""
    return ValueError(
        f'{path}: refused, because loading it would execute code ({reason}). Save plain arrays of numbers instead.'
    )


def malformed(path: Path, reason: object) -> ValueError:
    """The error for a file that is damaged, truncated or not what its name says."""
    if isinstance(reason, BaseException):
        reason = f'{type(reason).__name__}: {reason}'.rstrip(': ')
    return ValueError(f'{path}: malformed or truncated file ({reason})')


def starts_with(path: Path, *heads: bytes) -> bool:
    """Whether the file starts with one of ``heads``."""
    with open(path, 'rb') as file:
        return file.read(max(map(len, heads))).startswith(heads)


def is_pickle_or_zip(path: Path) -> bool:
    """Whether the file looks like a pickle or like a zip archive, which may hold one."""
    return starts_with(path, _PICKLE_MAGIC, *_ZIP_MAGICS)


def load_numpy(path: Path, key: str | None = None) -> np.ndarray | dict[str, np.ndarray]:
    """Reads a .npy or .npz file.

    Args:
        path (Path): The file.
        key (str | None): Of an .npz file that has an array of this name, read that one only.

    Returns:
        np.ndarray | dict[str, np.ndarray]: The array of a .npy file, the named arrays of an .npz.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is malformed, or holds pickled objects.
    """
    check_file(path)
    if starts_with(path, _PICKLE_MAGIC):
        raise unsafe(path, 'it is a pickle')
    if not starts_with(path, _NPY_MAGIC, *_ZIP_MAGICS):
        raise malformed(path, 'it does not start as a NumPy file does')
    try:
        with open(path, 'rb') as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            names = [key] if key in loaded.files else loaded.files
            return {name: loaded[name] for name in names}
    except Exception as error:  # a damaged file can fail in zipfile, zlib, struct, NumPy, ...
        if 'allow_pickle' in str(error):
            raise unsafe(path, 'it holds pickled Python objects') from error
        raise malformed(path, error) from error
