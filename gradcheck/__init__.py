"""gradcheck: what losses for RL on diffusion and flow-matching models really optimise, derived and verified.

Names are imported when they are first used, so that ``import gradcheck`` costs nothing.
"""

from __future__ import annotations

import importlib

try:
    from typing import Any
except ImportError as _error:
    from gradcheck.shadowed import shadowing as _shadowing

    raise ImportError(_shadowing(_error) or str(_error)) from _error

_WHERE = {
    "Case": "gradcheck.case",
    "GradcheckError": "gradcheck.errors",
    "InputError": "gradcheck.errors",
    "compare_gradient": "gradcheck.doors.inputs",
    "conforms": "gradcheck.doors.conformance",
    "conforms_advantage": "gradcheck.doors.parts",
    "conforms_ema": "gradcheck.doors.parts",
    "conforms_reward_map": "gradcheck.doors.parts",
    "conforms_sde_step": "gradcheck.doors.parts",
    "conforms_time_sampler": "gradcheck.doors.parts",
    "derive": "gradcheck.deriving.api",
    "entries": "gradcheck.catalogue",
    "entry": "gradcheck.catalogue",
    "equivalent_loss": "gradcheck.doors.inputs",
    "make_case": "gradcheck.doors.inputs",
    "original_loss": "gradcheck.doors.inputs",
    "target": "gradcheck.doors.inputs",
    "verify": "gradcheck.verifying.verification",
    "Watch": "gradcheck.watching.door",
    "watch": "gradcheck.watching.door",
}

__all__ = sorted(_WHERE)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'gradcheck' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        return getattr(importlib.import_module(_WHERE[name]), name)
    except (ImportError, AttributeError) as error:
        from gradcheck.shadowed import shadowing

        if found := shadowing(error):
            raise ImportError(found) from error
        raise


def __dir__() -> list[str]:
    return __all__
