"""Another module of the name ``derivations``, found before this package's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["shadowing"]


def shadowing() -> str:
    """What to say where Python finds another ``derivations`` than the one beside this package; empty where it does not.

    A search costs some file accesses, so this is asked after an import has failed.
    """
    own = Path(__file__).resolve().parents[1] / "derivations"
    try:
        spec = importlib.util.find_spec("derivations")
    except (ImportError, ValueError):  # one that was put into sys.modules by hand has none
        spec = None
    origins = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin or ""]
    found = next((Path(x).resolve() for x in origins if x), None)
    if found is None or found == own or own in found.parents:
        return ""
    return (
        f"[gradcheck] Python finds another module 'derivations' than gradcheck's, at {found}; "
        f"wanted the one in {own.parent}. Rename the other one, or put its folder behind that in sys.path"
    )
