"""Links out of ``docs/`` stay within the site: files of the repository are pages of it, with the modules' source."""

import inspect
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

import mmelr

# Files outside of docs/ that a page includes, and that page.
INCLUDED = {'README.md': 'index', 'README_zh-CN.md': 'index_zh-CN', 'CHANGELOG.md': 'changelog'}
FILES = 'repository_files'
PACKAGE = Path(mmelr.__file__).resolve().parent
logger = logging.getLogger(__name__)


def page_of(name: str) -> str:
    """The address, seen from the root of the site, of a file given by its path in the repository."""
    return f'repository/{name}.html'


def relative_to_docs(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
    """Links and images of an included page as seen from ``docs/``."""
    if path.name in INCLUDED:
        content[0] = re.sub(r'\]\((?![a-z]+:|#)(docs/)?', lambda m: '](' if m[1] else '](../', content[0])


class RepositoryLinks(SphinxTransform):
    """Sphinx would offer files beside its pages as downloads, and know no Markdown that is outside of ``docs/``."""

    default_priority = 500

    def apply(self) -> None:
        root, here = Path(self.env.srcdir).parent, self.env.docname
        for link in list(self.document.findall(addnodes.download_reference)):
            self.lead(link, Path(self.env.relfn2path(link['reftarget'], here)[1]), root)
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link['refdomain'] == 'doc' and link['reftarget'].startswith('/'):
                self.lead(link, Path(link['reftarget'] + '.md'), root)

    def lead(self, link: nodes.Element, file: Path, root: Path) -> None:
        """Puts a link into the site in place of one to a file."""
        here = self.env.docname
        name = posixpath.relpath(file.resolve().as_posix(), root.resolve().as_posix())
        if name.startswith('..'):
            logger.warning('the link to %s leads out of the repository', name, location=link)
        elif name in INCLUDED:
            page = f'/{INCLUDED[name]}'
            new = addnodes.pending_xref(refdomain='std', reftype='doc', reftarget=page, refdoc=here, refexplicit=True)
            new += link.children
            link.replace_self(new)
        else:
            # Kept with the page's metadata, which Sphinx drops when it reads the page anew.
            self.env.metadata[here].setdefault(FILES, []).append(name)
            new = nodes.reference(refuri=posixpath.relpath(page_of(name), posixpath.dirname(here) or '.'))
            new['internal'] = True
            new += link.children
            link.replace_self(new)


def source_of(domain: str, info: dict) -> str | None:
    """For ``sphinx.ext.linkcode``: where an object of the reference, whose pages are in ``api/``, is written."""
    thing = sys.modules.get(info['module'])
    for name in info['fullname'].split('.'):
        thing = getattr(thing, name, None)
    try:
        thing = inspect.unwrap(thing.fget if isinstance(thing, property) else thing)
        file = Path(inspect.getsourcefile(thing)).resolve()
        name = file.relative_to(PACKAGE.parent).as_posix()
        return f'../{page_of(name)}#line-{inspect.getsourcelines(thing)[1]}'
    except (TypeError, ValueError, OSError):
        return None  # neither a class nor a function, or of someone else


def file_pages(app: Sphinx) -> Iterator[tuple[str, dict, str]]:
    """A page for each module, and for each file that a page links to."""
    root = Path(app.srcdir).parent
    names = {file.relative_to(root).as_posix() for file in (root / 'mmelr').rglob('*.py')}
    names |= {name for page in app.env.metadata.values() for name in page.get(FILES, ())}
    for name in sorted(names):
        code = (root / name).read_text(encoding='utf-8')
        try:
            language = get_lexer_for_filename(name).aliases[0]
        except ClassNotFound:
            language = 'text'
        body = app.builder.highlighter.highlight_block(code, language, lineanchors='line')
        yield page_of(name).removesuffix('.html'), dict(title=name, body=f'<h1>{name}</h1>\n{body}'), 'page.html'


def setup(app: Sphinx) -> dict:
    app.connect('include-read', relative_to_docs)
    app.add_transform(RepositoryLinks)
    app.connect('html-collect-pages', file_pages)
    app.setup_extension('sphinx.ext.linkcode')
    app.config.linkcode_resolve = source_of
    return dict(parallel_read_safe=True, parallel_write_safe=True)
