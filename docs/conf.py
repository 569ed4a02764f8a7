"""Sphinx's settings: MyST pages, furo, and nothing that wants the network, at build or when read."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from sphinx.ext.napoleon.docstring import GoogleDocstring  # noqa: E402 (it has no place above the path)

import pyrovae  # noqa: E402 (found by the line above)

# Napoleon takes "log p(x): nats" in a property's docstring for a type and its description. Ours are prose.
GoogleDocstring._consume_inline_attribute = lambda self: ("", self._dedent(self._consume_to_end()))

# Pages show the names that users type: ``pyrovae.priors``, not the module behind it.
for name in pyrovae._MODULES:
    sys.modules.setdefault(f"pyrovae.{name}", getattr(pyrovae, name))

project = "pyrovae"
author = "the pyrovae developers"
release = version = pyrovae.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax among the pages, in place of its CDN
    "myst_nb",
    "public_names",
    "command_help",
]
root_doc = "index"
exclude_patterns = ["_build", "images", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = f"pyrovae {release}"
html_static_path = ["_static"]
html_css_files = ["pyrovae.css"]
html_show_sourcelink = False
html_show_copyright = False

myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
nb_execution_mode = "off"  # notebooks are stored with the outputs of a full run
nb_merge_streams = True

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

nitpicky = True
nitpick_ignore_regex = [
    # What other projects document, and annotations: there is no inventory of theirs without the network.
    (
        r"py:.*",
        r"(torch|pyro|numpy|xarray|arviz|matplotlib|pydantic|pydantic_core|annotated_types|zuko|poutine|pathlib|collections|os)\..*",
    ),
    (
        r"py:.*",
        r"Tensor|np\.ndarray|ArrayLike|Figure|Program|Data|pyrovae\.core\.distributed\.(Item|Value)|Training|Site|Structure|Values|nn\.Module|dict\[str|pyrovae\.core\.programs\.Structure",
    ),
]
