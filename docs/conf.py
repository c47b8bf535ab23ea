"""How `make docs` renders pages and docstrings: Sphinx, with formulas as MathML, which need no script or network."""

import os
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "pyro-sri"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "pyro-sri"
html_show_copyright = False
html_math_renderer = "mathml"
default_role = "code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # they stand in the signature
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nb_execution_mode = "force"  # a cache would not notice that the library has changed
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell
nb_merge_streams = True
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository

# The tutorials run this environment's commands, on one core as everywhere else.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["OMP_NUM_THREADS"] = "1"


def _mathml(latex: str, display: str) -> str:
    lines = "&" in latex or r"\\" in latex
    return convert(rf"\begin{{aligned}}{latex}\end{{aligned}}" if lines else latex, display=display)


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Registers the renderer of formulas."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
