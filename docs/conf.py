"""Settings of the site. Sphinx reads the repository itself, so that a link works on the site and in the repository."""

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from sb3_ppo_edu.version import __version__  # noqa: E402

project = "sb3_ppo_edu"
author = "sb3_ppo_edu contributors"
copyright = f"{author}, MIT licence"
version = release = __version__

root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "benchmarks/**.md",
    "notebooks/*.md",
    "sb3_ppo_edu/**.md",
    "CHANGELOG.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "logs", "tests", "**/__pycache__", "**/.ipynb_checkpoints"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "tools.pages",
]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
# Two classes may have one name; a link from an annotation that says no module leads to the first.
suppress_warnings = ["ref.python"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False
maximum_signature_line_length = 100
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = f"sb3_ppo_edu {version}"
html_css_files = ["site.css"]
html_extra_path = ["root"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "sb3_ppo_edu"},
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": {name: ["page-toc"] for name in ("docs/**", "sb3_ppo_edu/**", "notebooks/**", "CHANGELOG")},
    "show_prev_next": True,
    "show_toc_level": 2,
    "navigation_depth": 3,
    "header_links_before_dropdown": 8,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
# Results have wide tables: the headings of the page stand where the other pages are elsewhere, and the right side is free.
html_sidebars = {"benchmarks/**": ["page-toc"], "docs/start": [], "source/**": []}
# One file with the outlines of its glyphs, so that equations need neither a network nor a font.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0]) / "static" / "mathjax"
html_static_path = ["static", str(MATHJAX / "tex-svg.js")]
mathjax_path = "tex-svg.js"
mathjax3_config = {"svg": {"fontCache": "global"}}
