"""Noise in a few words, for the command line: ``symmetric:0.4``."""

from __future__ import annotations

from typing import Any

from .label_file import LabelFile
from .synthetic import AsymmetricNoise, InstanceNoise, SymmetricNoise, TransitionNoise

_HELP = """known forms are
  none                          labels as given
  symmetric:RATE                options seed, include_true
  asymmetric:RATE,mapping=NAME  options seed
  transition:FILE               options seed
  instance:RATE                 options seed, std
  file:FILE                     options key
for example symmetric:0.4,seed=3,include_true=False"""


def _bool(text: str) -> bool:
    return {'True': True, 'true': True, 'False': False, 'false': False}[text]


# Form -> (class, what comes after the colon, all arguments and how to read them).
_FORMS = {
    'symmetric': (SymmetricNoise, 'rate', dict(rate=float, seed=int, include_true=_bool)),
    'asymmetric': (AsymmetricNoise, 'rate', dict(rate=float, mapping=str, seed=int)),
    'transition': (TransitionNoise, 'matrix', dict(matrix=str, seed=int)),
    'instance': (InstanceNoise, 'rate', dict(rate=float, seed=int, std=float)),
    'file': (LabelFile, 'path', dict(path=str, key=str)),
}


def parse_noise(text: str) -> dict[str, Any] | None:
    """Turns the command line's syntax into the config of a noise model.

    Args:
        text (str): ``FORM:VALUE[,OPTION=VALUE...]`` or ``none``; for example ``symmetric:0.4``,
            ``asymmetric:0.4,mapping=cifar10``, ``transition:matrix.csv``, ``instance:0.3,seed=1``
            or ``file:labels.npy,key=worse_label``. A path cannot contain a comma.

    Returns:
        dict[str, Any] | None: The config, ``dict(type='SymmetricNoise', rate=0.4)``, or None for
        ``none``, labels as given. The model has been built once, so its arguments are valid; files
        have not been opened.

    Raises:
        ValueError: If the text has none of the forms, or an argument is invalid.
    """
    if text == 'none':
        return None
    form, colon, rest = text.partition(':')
    if form not in _FORMS:
        raise _error(text, f'there is no form {form!r}')
    model, main, readers = _FORMS[form]
    value, *options = rest.split(',')
    if not colon or not value:
        raise _error(text, f'{main} is missing')

    arguments = {}
    for option in (f'{main}={value}', *options):
        name, equals, value = option.partition('=')
        if name not in readers or not equals or name in arguments:
            problem = 'is given twice' if name in arguments else 'is not an option=value of it'
            raise _error(text, f'{option!r} {problem}')
        try:
            arguments[name] = readers[name](value)
        except (KeyError, ValueError):
            kind = readers[name].__name__.strip('_')
            raise _error(text, f'{name} must be a {kind}, but is {value!r}') from None
    if form == 'asymmetric' and 'mapping' not in arguments:
        raise _error(text, 'mapping=NAME is missing')
    try:
        model(**arguments)
    except ValueError as error:
        raise ValueError(f'noise {text!r}: {error}') from error
    return dict(type=model.__name__, **arguments)


def _error(text: str, problem: str) -> ValueError:
    return ValueError(f'noise {text!r}: {problem}; {_HELP}')
