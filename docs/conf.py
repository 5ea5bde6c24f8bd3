"""Settings of Sphinx: Markdown by MyST, the look of Furo; ``make docs`` builds with warnings as errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ["YOLO_OFFLINE"] = "true"  # read by Ultralytics when it is imported: a build asks nobody for anything
os.environ["YOLO_AUTOINSTALL"] = "false"

from kdyolo import __version__  # noqa: E402

project = "kdyolo"
author = "The kdyolo authors"
copyright = "The kdyolo authors, AGPL-3.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference_pages"]
exclude_patterns = ["_ext", "notebooks/README.md"]
nitpicky = False  # docstrings name modules by their own paths, which are promised to nobody

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # the anchors that code hosts give to headings, so that one link serves both
myst_links_external_new_tab = False

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"kdyolo {__version__}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "tango"
pygments_dark_style = "github-dark"
suppress_warnings = ["myst.strikethrough"]
