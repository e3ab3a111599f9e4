"""Reads the finished site as a browser without a network would: every link, anchor, image and script must be there."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


class Page(HTMLParser):
    """The anchors of a page, where it links to, and what it loads."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors, self.links, self.loads = {'', 'top'}, set(), set()
        self.feed(file.read_text(encoding='utf-8'))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or '' for key, value in attrs}
        self.anchors |= {given[key] for key in ('id', 'name') if key in given}
        if 'src' in given:
            self.loads.add(given['src'])
        if 'href' in given:
            loaded = tag == 'link' and given.get('rel') in ('stylesheet', 'icon', 'preload')
            (self.loads if loaded else self.links).add(given['href'])


def problems(site: Path) -> list[str]:
    """What is broken, one line each."""
    pages = {file: Page(file) for file in sorted(site.rglob('*.html'))}
    found = []
    for file, page in pages.items():
        name = file.relative_to(site)
        for target in sorted(page.links | page.loads):
            url = urlsplit(target)
            if url.scheme == 'data':
                continue
            if url.scheme or url.netloc:
                if target in page.loads:
                    found.append(f'{name} loads {target}: the site must be readable without a network')
                continue
            other = (file.parent / unquote(url.path)).resolve() if url.path else file
            if not other.is_file():
                found.append(f'{name} links to {target}, which does not exist')
            elif other in pages and unquote(url.fragment) not in pages[other].anchors:
                found.append(f'{name} links to {target}: {other.name} has no such anchor')
    return found


def check(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == 'html':
        for problem in problems(Path(app.outdir).resolve()):
            logger.warning('%s', problem)


def setup(app: Sphinx) -> dict:
    app.connect('build-finished', check)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
