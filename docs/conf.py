"""The site that `make docs` builds of these pages, with Sphinx. GitHub shows them as they are, too."""

import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(root), str(root / 'docs' / '_extensions')]

from mmelr import __version__  # noqa: E402

project = 'mmelr'
author = project_copyright = 'The mmelr authors'
version = release = __version__
root_doc = 'index'
exclude_patterns = ['_extensions']
extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'mathml',
    'reference',
    'repository',
    'site_check',
]

# Markdown as GitHub reads it: $ for mathematics, anchors made from headings.
myst_enable_extensions = ['dollarmath']
myst_dmath_allow_labels = False
myst_heading_anchors = 4

# The reference holds what has a docstring of its own, in the order of the source.
autodoc_member_order = 'bysource'
autodoc_inherit_docstrings = False
autodoc_typehints_format = 'short'
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Every reference must lead somewhere. What is not of mmelr has no page
# here, and the inventories of its own sites are on the internet.
nitpicky = True
nitpick_ignore_regex = [('py:.*', r'(torch|numpy|mmengine|mmpretrain)\..*')]

highlight_language = 'none'  # of fences without a language

html_theme = 'furo'
html_title = f'mmelr {release}'
html_static_path = ['_static']
html_css_files = ['site.css']
html_copy_source = False
html_show_search_summary = False  # scripts may not read other pages of file://
