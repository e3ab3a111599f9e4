"""Mathematics as MathML, which browsers show by themselves: no script, no network. TeX that is wrong is a warning.

The one font is copied into the site: many a Linux has none for mathematics.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path

from docutils.nodes import Element, SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging

FONT = 'STIXTwoMath-Regular.ttf'
logger = logging.getLogger(__name__)
converter = LatexToMathML(fancy_error=False)


def to_mathml(node: Element, block: bool) -> str:
    tex = node.astext()
    if block and r'\\' in tex and r'\begin' not in tex:  # several lines: as Sphinx's other renderers read them
        tex = rf'\begin{{aligned}}{tex}\end{{aligned}}'
    try:
        return converter.convert_with_local_state(tex, displaystyle=block)
    except LatexError as error:
        logger.warning('%s in the formula %s', error, tex, location=node)
        return ''


def visit_inline(translator, node: Element) -> None:
    translator.body.append(to_mathml(node, block=False))
    raise SkipNode


def visit_block(translator, node: Element) -> None:
    translator.body += [translator.starttag(node, 'div', CLASS='math'), to_mathml(node, block=True), '</div>\n']
    raise SkipNode


def copy_font(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == 'html':
        font = distribution('ziamath').locate_file(f'ziamath/fonts/{FONT}')
        shutil.copy(font, Path(app.outdir) / '_static' / FONT)


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer('mathml', (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = 'mathml'
    app.connect('build-finished', copy_font, priority=100)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
