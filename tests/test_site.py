"""`make docs` refuses what is broken. (That it accepts the pages as they are is what `make docs` itself shows, in CI.)

Runs where `make docs` has installed Sphinx.
"""

import io
import re
from pathlib import Path

import pytest

pytest.importorskip('sphinx')
pytest.importorskip('math_core')

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

# Sphinx's, of what its extensions use.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::PendingDeprecationWarning')

ROOT = Path(__file__).resolve().parent.parent

INDEX = r"""
```{include} ../README.md
```

$\frac12 \bigl( \tilde x_i \bigr)$ and $\wrong x$

$$a &= b \\ c &= d$$

[config](../configs/mine.py), [heading](page.md#a-heading-β), [script](../tools/none.py), [no heading](page.md#nothing)

<img src="https://example.org/counter.png"><a href="nowhere.html">raw</a><a href="page.html#nowhere">raw</a>

```{toctree}
page
api/reference
```
"""
PAGE = """
# Page

## A heading: β

[back](../README.md), [more](../NOTES.md), {py:class}`TargetMemory`
"""
REFERENCE = """
Reference
=========

.. public:: mmelr.memory

:class:`ELRMixupp` :class:`torch.nn.Module`
"""


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A small repository with the site's own configuration: the folder of its site, and the warnings."""
    root = tmp_path_factory.mktemp('repository')
    files = {
        'docs/index.md': INDEX,
        'docs/page.md': PAGE,
        'docs/lonely.md': '# In no table of contents\n',
        'docs/api/reference.rst': REFERENCE,
        'README.md': '# Project\n\n[a page](docs/page.md), [a config](configs/mine.py), [here](#project)\n',
        'NOTES.md': 'Some notes.',
        'configs/mine.py': "model = 'mine'\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding='utf-8')
    (root / 'mmelr').symlink_to(ROOT / 'mmelr')
    warnings = io.StringIO()
    with docutils_namespace():
        app = Sphinx(
            root / 'docs', ROOT / 'docs', root / 'site', root / 'doctrees', 'html',
            status=None, warning=warnings, warningiserror=True,
        )  # fmt: skip
        app.build()
    assert app.statuscode != 0
    return root / 'site', re.sub(r'\x1b\[[\d;]*m', '', warnings.getvalue())


class TestRefuses:
    @pytest.mark.parametrize(
        'says',
        [
            r"lonely\.md: .*isn't included in any toctree",
            r"index\.md:\d+: .*target not found: '\.\./tools/none\.py'",
            r"index\.md:\d+: .*local id not found in doc 'page': 'nothing'",
            r'index\.html loads https://example\.org/counter\.png',
            r'index\.html links to nowhere\.html, which does not exist',
            r'index\.html links to page\.html#nowhere: page\.html has no such anchor',
            r'index\.md:\d+: .*Unknown command "\\wrong"',
            r'target not found: ELRMixupp',
            r'Public in mmelr\.losses and on no page of docs/api: .*\bELRLoss\b',
        ],
    )
    def test_what_is_broken(self, built, says):
        assert re.search(says, built[1]), built[1]

    def test_nothing_else(self, built):
        warnings = [line for line in built[1].splitlines() if 'WARNING' in line and 'Public in' not in line]
        # Two for what Sphinx found no target for: the page then has a dead link, too.
        assert len(warnings) == 10, warnings
        # Documented in the package, and in one of its modules.
        assert 'Public in mmelr.memory' not in built[1]


class TestSite:
    def page(self, built, name):
        return (built[0] / name).read_text(encoding='utf-8')

    def test_mathematics_needs_no_script(self, built):
        assert '<mfrac><mn>1</mn><mn>2</mn></mfrac>' in self.page(built, 'index.html')
        assert '<mtable' in self.page(built, 'index.html')
        assert not re.search(r'src="[^"]*(mathjax|katex)', self.page(built, 'index.html'), re.I)
        assert (built[0] / '_static' / 'STIXTwoMath-Regular.ttf').stat().st_size > 100_000

    def test_files_of_the_repository_are_pages(self, built):
        # Linked from docs/, and from the README, which is included.
        assert self.page(built, 'index.html').count('href="repository/configs/mine.py.html"') == 2
        assert 'mine' in self.page(built, 'repository/configs/mine.py.html')
        assert 'href="repository/NOTES.md.html"' in self.page(built, 'page.html')

    def test_the_readme_is_the_first_page(self, built):
        assert re.search(r'href="page\.html">(<span[^>]*>)?a page<', self.page(built, 'index.html'))
        assert 'href="index.html"' in self.page(built, 'page.html')

    def test_short_names_are_found(self, built):
        assert 'href="api/reference.html#mmelr.memory.TargetMemory"' in self.page(built, 'page.html')

    def test_one_letter_is_no_list(self, built):
        assert '<strong>num_classes</strong> (<em>int</em>) – C.</p>' in self.page(built, 'api/reference.html')
