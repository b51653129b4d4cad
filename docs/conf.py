"""How Sphinx builds the documentation site.

    pip install -e '.[docs]'
    sphinx-build -W docs DIR

Pages are Markdown that reads well on GitHub, too: what only a site has (navigation, the API
reference, pages that live elsewhere in the repository) is added by ``_extensions/pages.py``
from the tables below, so that no page holds directives. Nothing is downloaded, neither here nor
by a reader's browser: formulas are MathML.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_extensions"), str(HERE.parent)]

NAVIGATION = {
    "Understand": ("concepts", "measures", "protocol", "methods"),
    "Use": ("guide", "any-model", "from-pytorch", "zoo"),
    "Scale": ("scale", "launching"),
    "Results": ("results", "results/study", "results/study/paper", "benchmarks"),
    "API reference": (
        *("api/losses", "api/threat", "api/perturb", "api/attacks", "api/flatness"),
        *("api/models", "api/data", "api/evaluation", "api/reporting", "api/types"),
    ),
    "Project": ("changes", "contributing"),
}
"""Caption and pages, in this order; the front page is ``index``. Pages that nobody named here
come at the end, and named ones that are not there (yet) are left out."""

ELSEWHERE = {
    "launching": "launch/README.md",
    "benchmarks": "benchmarks/README.md",
    "changes": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}
"""Pages of the site that are files outside of docs/."""

API = {
    "api/losses": ("rfm.losses",),
    "api/threat": ("rfm.threat",),
    "api/perturb": ("rfm.perturb",),
    "api/attacks": ("rfm.attacks",),
    "api/flatness": ("rfm.flatness", "rfm.flatness.uncertainty", "rfm.flatness.curvature"),
    "api/models": (
        *("rfm.models", "rfm.models.rescale", "rfm.models.exported"),
        *("rfm.models.weights", "rfm.models.imported", "rfm.models.zoo"),
    ),
    "api/data": ("rfm.data", "rfm.data.npz", "rfm.data.tfds"),
    "api/evaluation": (
        *("rfm.evaluation", "rfm.evaluation.robustness", "rfm.evaluation.compare"),
        "rfm.evaluation.records",
    ),
    "api/reporting": ("rfm.reporting",),
    "api/types": ("rfm.types", "rfm.devices", "rfm.errors"),
}
"""Pages that are made of docstrings, and of which modules."""

project = "rfm"
author = "the authors of robust-flat-minima"
copyright = "the authors of robust-flat-minima, Apache-2.0"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
extensions += ["pages", "signatures", "mathml"]  # of _extensions
exclude_patterns = ["_extensions"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a page may begin below a first heading of its own

default_role = "py:obj"  # `name` in docstrings is a link where there is one
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # they are in the signature
napoleon_use_rtype = False
add_module_names = False
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "sphinx_book_theme"
html_title = "rfm: Robust Flat Minima"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # a second field to search in
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
