"""Sphinx's settings: MyST pages, the notebook, flags and API from the code, the PyData theme. Needs no network."""

import os
import pathlib
import shutil
import sys

DOCS = pathlib.Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_extensions")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # of the notebook

import tl_distributed  # noqa: E402 - found by the line above

# One file for the package and for these pages, which Sphinx wants below its own folder.
shutil.copyfile(ROOT / "tl_distributed/notebooks/transfer_learning.ipynb", DOCS / "tutorial/transfer_learning.ipynb")

project = "tl_distributed"
author = "the authors of tl_distributed"
copyright = author
version = release = tl_distributed.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "flags_page"]
exclude_patterns = ["_build", "_extensions"]
default_role = "literal"  # of `words` in docstrings
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other projects, whose pages are on the network

myst_heading_anchors = 3
nb_execution_mode = "force" if os.environ.get("DOCS_EXECUTE") == "1" else "off"
nb_execution_timeout = 1800  # seconds a cell
nb_execution_raise_on_error = True
nb_ipywidgets_js = {}  # from a network otherwise

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = f"tl_distributed {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_nav_level": 2,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"changelog": [], "index": []}
