"""The settings of Sphinx, which builds the site from this directory: ``python -m sphinx -W docs OUT``."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from pywren import __version__  # noqa: E402  # found through the path above

project = "PyWren"
author = "the authors of PyWren"
project_copyright = "the authors of PyWren"
release = __version__
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # the docstrings have Google's sections: Args, Returns, Raises
    "sphinx_click",
    "pages",  # docs/_ext: links to files outside this directory, and each page as Markdown
]
exclude_patterns = ["_ext", "_static", "Thumbs.db"]

myst_heading_anchors = 6  # the anchors that GitHub gives to headings
myst_url_schemes = {"http": None, "https": None, "mailto": None, "repository": "files/{{path}}.txt"}
highlight_language = "none"  # a fence without a language is output or a command line

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

pygments_dark_style = "a11y-high-contrast-dark"

html_theme = "furo"
html_title = f"PyWren {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False  # the twins are what readers of the source want
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}


def setup(_: object) -> None:
    """Show each function once: its overloads are for type checkers, and their signatures are long."""
    from sphinx.pycode.parser import VariableCommentPicker

    VariableCommentPicker.is_overload = lambda self, decorators: False
