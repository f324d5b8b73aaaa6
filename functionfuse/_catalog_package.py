"""Makes sure, when functionfuse is imported, that `catalog` is the package that is installed beside it.

A script's folder comes first on the path of imports, and projects that handle data often have a `catalog.py` there. It
would hide the package; what breaks then says nothing of why.
"""

from __future__ import annotations

import importlib.util
import os
import sys


def require_installed_catalog() -> None:
    """Raise an ImportError that names the file, if another module than the package would be imported as `catalog`."""
    ours = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "catalog", "__init__.py")
    found = _location()
    if found is None or os.path.abspath(found) == ours or os.path.realpath(found) == os.path.realpath(ours):
        return
    own = os.path.dirname(found) if os.path.basename(found) == "__init__.py" else found
    raise ImportError(
        f"{own} hides the package 'catalog', which is installed with functionfuse and which it needs. "
        "Rename yours, for example to 'my_catalog', or move it into a package of your own",
        name="catalog",
        path=found,
    )


def _location() -> str | None:
    """Return the file of the module that `import catalog` gives or would give; None where nothing can be said."""
    module = sys.modules.get("catalog")
    if module is not None:
        return getattr(module, "__file__", None)
    spec = importlib.util.find_spec("catalog")
    return None if spec is None or not spec.has_location else spec.origin
