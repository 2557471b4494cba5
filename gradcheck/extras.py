"""Libraries that only some commands need: which extra of the package brings each."""

from __future__ import annotations

import importlib.util

from gradcheck.errors import InputError

__all__ = ["EXTRAS", "need"]

EXTRAS = {
    "accelerate": "models",
    "diffusers": "models",
    "hypothesis": "test",
    "matplotlib": "plots",
    "peft": "models",
    "pytest": "test",
    "safetensors": "vectors",
}
"""Library → the extra that installs it."""


def need(library: str, what: str) -> None:
    """Say before any work is done that a library is missing, and how to get it.

    Args:
        library: its import name, a key of :data:`EXTRAS`.
        what: what was asked for, as the user wrote it: ``"--html"``.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec(library) is None:
        extra = EXTRAS[library]
        wanted = f"it installed: pip install '.[{extra}]' in a checkout, or pip install 'gradcheck-rl[{extra}]'"
        raise InputError((what, f"an environment without {library}", wanted))
