"""How `make docs` renders pages and docstrings: Sphinx, with formulas as MathML, which need no script or network."""

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "pyro-sri"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "pyro-sri"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
default_role = "code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "description"  # in the signature they would make it unreadable
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nb_execution_mode = "force"  # a cache would not notice that the library has changed
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell
nb_merge_streams = True

ROOT = Path(__file__).parent.parent

# The tutorials run this environment's commands, on one core as everywhere else.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["OMP_NUM_THREADS"] = "1"


def _mathml(latex: str, display: str) -> str:
    lines = "&" in latex or r"\\" in latex
    mathml = convert(rf"\begin{{align*}}{latex}\end{{align*}}" if lines else latex, display=display)
    return mathml.replace("&#x0007E;", "&#x0223C;")  # "distributed as" is no ASCII tilde


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def _unlink_files(app: Sphinx, doctree: nodes.document) -> None:
    """Links to files of the repository would lead nowhere: their words stay."""
    folder = (ROOT / "docs" / app.env.docname).parent
    for link in list(doctree.findall(addnodes.pending_xref)):
        path = link["reftarget"].partition("#")[0]
        is_page = link["reftype"] != "myst" or link.get("refdomain") == "doc"
        if path and not is_page and any((start / path).exists() for start in (ROOT, folder)):
            link.replace_self(link.children)


COLON = "\ue000"  # a character that nobody uses


def _prepare(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Napoleon would take what stands before a colon about a property for its type, and the size "K." for a list."""
    if what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(":", COLON)
    lines[:] = [re.sub(r"^(\s+\w+: )(?=[A-Z]\.)", r"\1\\", line) for line in lines]


def _mend(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Brings colons back, and lets letters follow code, as in `Module`s, which reStructuredText does not take."""
    lines[:] = [re.sub(r"(?<![`:\w])(`[^`]+`)(?=\w)", r"\1\\ ", line.replace(COLON, ":")) for line in lines]


def setup(app: Sphinx) -> None:
    """Registers the renderer of formulas, and what happens to links and docstrings."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("doctree-read", _unlink_files)
    app.connect("autodoc-process-docstring", _prepare, priority=400)
    app.connect("autodoc-process-docstring", _mend, priority=600)
