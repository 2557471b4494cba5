r"""One problem as an implementation sees it: named tensors, and nothing symbolic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradcheck.errors import did_you_mean
from gradcheck.tensor_ops import expand

__all__ = ["OUTPUTS", "Case"]

OUTPUTS = ("v_theta", "noise_theta", "x_0_theta", "v_cond")
"""What a network may put out; a case holds one of them (of a guided one, both branches)."""


class Case:
    r"""The named quantities of one problem.

    Velocities and states (``v_theta``, ``x_t``, ``noise`` …) have shape (B, \*latent), per-sample scalars (``t``,
    ``advantage`` …) have shape (B,), and one-number quantities (``beta``, ``clip_low`` …) are Python floats.
    Names are those of the notation table; what the algorithm does not use is not there, and asking for it
    raises an error that lists what is.

    The network's ``output`` (``v_theta``, or what else it predicts) is a leaf that requires grad, unless a real
    network's was put in its place.
    """

    def __init__(self, label: str, quantities: Mapping[str, Tensor | float]) -> None:
        self._label = label
        self._quantities = dict(quantities)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._quantities[name]
        except KeyError:
            raise AttributeError(
                f"[gradcheck] {self._label} has no quantity {name!r}; it has {', '.join(self._quantities)}"
                f"{did_you_mean(name, self._quantities)}"
            ) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._quantities]

    def __repr__(self) -> str:
        v = self.output
        return f"Case({self._label}, latent {tuple(v.shape)}, {v.dtype}, {v.device})"

    @property
    def names(self) -> tuple[str, ...]:
        """What this case holds."""
        return tuple(self._quantities)

    @property
    def output_name(self) -> str:
        """Which quantity the network puts out: what the loss is differentiated in."""
        return next((name for name in OUTPUTS if name in self._quantities), OUTPUTS[0])

    @property
    def output(self) -> Tensor:
        r"""What the network puts out, (B, \*latent)."""
        value: Tensor = getattr(self, self.output_name)
        return value

    @property
    def label(self) -> str:
        """The derivation that it was made for."""
        return self._label

    def expand(self, scalar: Tensor) -> Tensor:
        """Give a per-sample scalar (B,) the latent's rank, (B, 1, …, 1)."""
        return expand(scalar, self.output)

    def replace(self, **quantities: Tensor | float) -> Case:
        """The same case with some quantities exchanged."""
        unknown = set(quantities) - set(self._quantities)
        if unknown:
            raise AttributeError(f"[gradcheck] {self._label} has no quantity {', '.join(sorted(unknown))}")
        return Case(self._label, {**self._quantities, **quantities})

    def broadcast(self, dtype: torch.dtype | None = None, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Every quantity, or those named, in a form in which all of them broadcast: (B, \\*latent), (B, 1, …, 1) or ().

        With a dtype, detached and cast to it.
        """
        v = self.output
        out = {}
        for name in self._quantities if names is None else names:
            value = self._quantities[name]
            if not isinstance(value, Tensor):
                x = torch.tensor(value, dtype=dtype or v.dtype, device=v.device)
            else:
                if not value.is_floating_point() or name == "sigmas":
                    continue  # a look-up, not a quantity of the formulas
                x = value if dtype is None else value.detach().to(dtype)
                x = x if x.shape == v.shape or x.ndim == 0 else expand(x, v)
            out[name] = x
        return out
