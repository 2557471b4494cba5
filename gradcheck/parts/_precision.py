"""Does a function round in a lower precision than it is called in?  Rounding is rough; a wrong formula is smooth."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

__all__ = ["rounds"]

_STEP = 2.0**-21
"""A relative step of 8 units of float32's last place: float32 sees it, and curvature (its square, 2⁻⁴²) hardly does."""

_ROUGH = 2.0**-31
"""Second differences of a float32 computation are about its unit roundoff, 2⁻²⁴, relative to its values; those of a
smooth function in float64 are 2⁻⁴² times its relative curvature."""


def rounds(outputs: Callable[[float], Iterable[Tensor | None]]) -> bool:
    """Whether some output is as rough as float32.

    Args:
        outputs: what the function returns where its inputs are scaled by 1 + h, for a small h.
    """
    here = list(outputs(0.0))
    for wider in (1.0, 1.3, 1.7):  # rounded values may lie on a line by chance
        ahead, behind = (list(outputs(h * wider)) for h in (_STEP, -_STEP))
        if any(_rough(a, x, b) for a, x, b in zip(ahead, here, behind, strict=True)):
            return True
    return False


def _rough(ahead: Tensor | None, here: Tensor | None, behind: Tensor | None) -> bool:
    if ahead is None or here is None or behind is None or not here.numel():
        return False
    a, x, b = (y.detach().double() for y in (ahead, here, behind))
    second = (a - 2 * x + b).abs()
    return bool(second.isfinite().all()) and float(second.max()) > _ROUGH * float(x.abs().max())
