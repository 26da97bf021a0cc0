"""Sphinx configuration; nothing is fetched while building."""

import re

from avalanche_dgm import __version__

project = "avalanche_dgm"
author = "The avalanche_dgm authors"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_heading_anchors = 3

# The docstrings put names in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Otherwise the attributes of a dataclass would be described twice.
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"avalanche_dgm {release}"
html_copy_source = False
html_show_sphinx = False


def escape_shapes(app, what, name, obj, options, lines):
    """Keeps the star of a shape such as (n, *shape) from starting emphasis."""
    lines[:] = [
        re.sub(r"(``.*?``)|\*(?=shape)", lambda m: m.group(1) or r"\*", line) for line in lines
    ]


def setup(app):
    app.connect("autodoc-process-docstring", escape_shapes)
