"""The documentation site: ``python -m sphinx -W --keep-going -b html docs build/docs``."""

import fastconv1d

project = "fastconv1d"
author = "the fastconv1d developers"
release = version = fastconv1d.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
templates_path = ["_templates"]
exclude_patterns = ["_templates"]
default_role = "py:obj"

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Shapes and dtypes stand in the docstrings' Parameters, so signatures go without annotations.
# numpydoc's own lists of members would repeat those of the class template.
autodoc_typehints = "none"
autosummary_generate = True
autosummary_ignore_module_all = False
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"fastconv1d {version}"
html_static_path = ["_static"]
html_css_files = ["fastconv1d.css"]
html_show_copyright = False
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
