"""The reference: everything public of a package, and bare names in docstrings found wherever they are."""

import importlib
import inspect
import pkgutil
import re
from types import ModuleType

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import mmelr

logger = logging.getLogger(__name__)
MISSING = (
    'Public in %s and on no page of docs/api: %s. Add `.. public:: %s` to a page. A name that is neither a class nor a '
    'function needs a docstring, too: `#: ` and a sentence in the line before.'
)


def is_code(module: ModuleType, name: str) -> bool:
    """Whether a name is a class or a function, which carry their docstring wherever they are imported."""
    return inspect.isclass(getattr(module, name)) or inspect.isroutine(getattr(module, name))


class Public(SphinxDirective):
    """``.. public:: mmelr.memory``: what the package exports, then what else is public in each of its modules."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        module = importlib.import_module(name)
        lines = [f'.. automodule:: {name}', '   :members:']
        if hasattr(module, '__path__'):
            exported = {n for n in module.__all__ if is_code(module, n)}
            lines += ['   :exclude-members: ' + ', '.join(set(module.__all__) - exported), '']
            for info in pkgutil.iter_modules(module.__path__, f'{name}.'):
                part = importlib.import_module(info.name)
                rest = [n for n in getattr(part, '__all__', ()) if n not in exported]
                if rest and not info.ispkg:
                    title = f'``{info.name}``'
                    lines += ['', title, '-' * len(title), '', f'.. automodule:: {info.name}']
                    lines += [f'   :members: {", ".join(rest)}']
        return self.parse_text_to_nodes('\n'.join(lines), allow_section_headings=True)


def spare_letters(app: Sphinx, what: str, name: str, thing: object, options, lines: list[str]) -> None:
    """``num_classes (int): C.`` says C. To reStructuredText a text that begins so is a list with A, B and C."""
    lines[:] = [re.sub(r'(\): )(?=[A-Za-z]\.( |$))', r'\1\\', line) for line in lines]


def find(app: Sphinx, env, link, text: nodes.Node) -> nodes.Node | None:
    """Resolves what docstrings name for short: ``TargetMemory`` anywhere in mmelr is the one class of that name.

    A type of someone else's, in a signature or an ``Args`` list, stays text: torch's inventory is on the internet. What
    stands in a role must be found.
    """
    if link.get('refdomain') != 'py':
        return None
    objects = env.get_domain('py').objects
    target = link['reftarget'].removeprefix('mmelr.')
    # Of a class with an inherited docstring, a method may be documented in a class of the same name elsewhere.
    for words in (f'{link.get("py:class")}.{target}', target):
        names = [name for name, entry in objects.items() if f'.{name}'.endswith(f'.{words}') and not entry.aliased]
        if len(names) == 1:
            break
    else:
        is_role = isinstance(text, nodes.literal)
        return None if is_role or link['reftarget'].startswith('mmelr.') else text
    entry = objects[names[0]]
    refuri = app.builder.get_relative_uri(link['refdoc'], entry.docname)
    return nodes.reference('', '', text, internal=True, refuri=f'{refuri}#{entry.node_id}', reftitle=names[0])


def skip_fields(app: Sphinx, what: str, name: str, thing: object, skip: bool, options) -> bool | None:
    """The fields of a ``NamedTuple`` are in its docstring; Python says of each that it is an alias."""
    return True if type(thing).__name__ == '_tuplegetter' else None


def check_complete(app: Sphinx, env) -> None:
    """A warning for each module with public names that no page under ``docs/api`` documents."""
    documented = env.get_domain('py').objects
    told = set()
    for module in (importlib.import_module(info.name) for info in pkgutil.walk_packages(mmelr.__path__, 'mmelr.')):
        here = f'{module.__name__}.'
        missing = []
        for name in getattr(module, '__all__', ()):
            homes = [full.removesuffix(name) for full in documented if full.endswith(f'.{name}')]
            # In the module itself, in a package around it, or inside of it.
            if not any(here.startswith(home) or home.startswith(here) for home in homes) and name not in told:
                missing.append(name)
        told |= set(missing)  # a package comes before its modules
        if missing:
            logger.warning(MISSING, module.__name__, ', '.join(missing), module.__name__)


def setup(app: Sphinx) -> dict:
    app.add_directive('public', Public)
    app.connect('autodoc-process-docstring', spare_letters, priority=400)  # before napoleon's
    app.connect('autodoc-skip-member', skip_fields)
    app.connect('missing-reference', find)
    app.connect('env-check-consistency', check_complete)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
