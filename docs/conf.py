"""Sphinx configuration; nothing has to be fetched while building."""

import logging
import re
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from avalanche_dgm import __version__

project = "avalanche_dgm"
author = "The avalanche_dgm authors"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "reference_pages",
]
# An environment from before it was needed still builds the pages, without buttons.
if find_spec("sphinx_copybutton"):
    extensions.append("sphinx_copybutton")
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]

myst_heading_anchors = 3

# The docstrings put names in single backticks: a link where the name is known, else code.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Otherwise the attributes of a dataclass would be described twice.
napoleon_use_ivar = True
# Types and defaults come from `reference_pages`.
napoleon_attr_annotations = False

intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "lightning": ("https://lightning.ai/docs/pytorch/stable", None),
    "torchmetrics": ("https://lightning.ai/docs/torchmetrics/stable", None),
    "avalanche": ("https://avalanche-api.continualai.org/en/v0.6.0", None),
}
intersphinx_timeout = 5
# Without a network the names of other packages are no links, which is no reason to fail.
logging.getLogger("sphinx.sphinx.ext.intersphinx").addFilter(
    lambda record: "failed to reach any of the inventories" not in str(record.msg)
)

html_theme = "furo"
html_title = f"avalanche_dgm {release}"
html_copy_source = False
html_show_sphinx = False
# The search and the tables of the reference find every name; an index of all is a page too large.
html_use_index = False
html_domain_indices = False


def escape_shapes(app, what, name, obj, options, lines):
    """Keeps the star of a shape such as (n, *shape) from starting emphasis."""
    lines[:] = [
        re.sub(r"(``.*?``)|\*(?=\w[\w ]*\))", lambda m: m.group(1) or r"\*", line) for line in lines
    ]


def setup(app):
    app.connect("autodoc-process-docstring", escape_shapes)
