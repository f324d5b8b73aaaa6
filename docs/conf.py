import importlib.metadata

project = "functionfuse"
author = "The functionfuse authors"
copyright = f"2026, {author}"
release = importlib.metadata.version("functionfuse")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"functionfuse {release}"

myst_heading_anchors = 3  # pages link to each other's headings

napoleon_google_docstring = False
napoleon_use_ivar = True  # a field of a dataclass is described once
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "show-inheritance": True}
