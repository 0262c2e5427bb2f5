"""Sphinx's configuration of the site: https://www.sphinx-doc.org/en/master/usage/configuration.html."""

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE))

import site_pages  # noqa: E402  it is beside this file

project = "gowork"
author = "The gowork developers"
release = version = site_pages.version()
extensions = ["myst_parser"]
myst_heading_anchors = 4
#: Changelogs skip levels of headings, and a page shows frames of a session as lines of JSON with a letter before them.
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
html_theme = "furo"
html_title = f"gowork {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = [str(_HERE / "static")]
#: The link to the page of all versions, where there is one.
templates_path = [str(_HERE / "templates")]
html_css_files = ["site.css"]
smartquotes = False
