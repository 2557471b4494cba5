"""The catalogue: one line for each algorithm joins its symbolic file to its torch file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType

from torch import Tensor

from derivations.derivation import Derivation
from derivations.losses import awm, diffusion_dpo, diffusion_nft, flow_grpo, fpo, grpo_guard, rwr
from derivations.render import closing_row
from gradcheck.case import Case
from gradcheck.errors import InputError
from gradcheck.losses import awm as awm_torch
from gradcheck.losses import diffusion_dpo as diffusion_dpo_torch
from gradcheck.losses import diffusion_nft as diffusion_nft_torch
from gradcheck.losses import flow_grpo as flow_grpo_torch
from gradcheck.losses import fpo as fpo_torch
from gradcheck.losses import grpo_guard as grpo_guard_torch
from gradcheck.losses import rwr as rwr_torch

__all__ = ["ALGORITHMS", "CATALOGUE", "Entry", "closing_table", "entries", "entry"]


@lru_cache(maxsize=1000)
def _derive(module: ModuleType, variant_name: str) -> Derivation:
    variant = next(v for v in module.VARIANTS if v.name == variant_name)
    derivation: Derivation = module.derive(variant)
    return derivation


@dataclass(frozen=True)
class Entry:
    """One variant of one algorithm: its derivation and its hand-written torch loss."""

    symbolic: ModuleType
    numeric: ModuleType
    variant: str

    @property
    def label(self) -> str:
        name: str = self.symbolic.NAME
        return name if self.variant == "paper" else f"{name}[{self.variant}]"

    @property
    def derivation(self) -> Derivation:
        return _derive(self.symbolic, self.variant)

    def loss(self, case: Case) -> Tensor:
        """The original per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
        function: Callable[..., Tensor] = self.numeric.loss
        return function(case, **self.derivation.variant.options)


ALGORITHMS: tuple[tuple[ModuleType, ModuleType], ...] = (
    (flow_grpo, flow_grpo_torch),
    (grpo_guard, grpo_guard_torch),
    (awm, awm_torch),
    (diffusion_nft, diffusion_nft_torch),
    (rwr, rwr_torch),
    (fpo, fpo_torch),
    (diffusion_dpo, diffusion_dpo_torch),
)
"""Each algorithm's symbolic module and its torch module."""

CATALOGUE: tuple[Entry, ...] = tuple(
    Entry(symbolic, numeric, variant.name) for symbolic, numeric in ALGORITHMS for variant in symbolic.VARIANTS
)
"""Every variant of every algorithm."""


def entries(*names: str) -> tuple[Entry, ...]:
    """Entries by name: ``flow_grpo`` (every variant), ``flow_grpo[mean]`` (one), or none for all.

    Raises:
        InputError: a name is unknown; the message lists those there are.
    """
    if not names:
        return CATALOGUE
    chosen: dict[str, Entry] = {}
    unknown = []
    for name in names:
        found = [e for e in CATALOGUE if name in (e.label, e.symbolic.NAME, f"{e.symbolic.NAME}[{e.variant}]")]
        if not found:
            unknown.append(
                (
                    name,
                    sorted({e.symbolic.NAME for e in CATALOGUE} if "[" not in name else {e.label for e in CATALOGUE}),
                )
            )
        chosen.update({e.label: e for e in found})
    if unknown:
        raise InputError(*(("name", repr(name), f"one of {', '.join(known)}") for name, known in unknown))
    return tuple(chosen.values())


def entry(name: str, variant: str = "paper") -> Entry:
    """One entry, by algorithm and variant.

    Raises:
        InputError: there is no such algorithm or variant.
    """
    of_name = [e for e in CATALOGUE if name == e.symbolic.NAME]
    if not of_name:
        known = ", ".join(symbolic.NAME for symbolic, _ in ALGORITHMS)
        raise InputError(("name", repr(name), f"one of {known}"))
    for e in of_name:
        if e.variant == variant:
            return e
    raise InputError(("variant", repr(variant), f"one of {', '.join(e.variant for e in of_name)}"))


def closing_table() -> str:
    """The closing table in Markdown: every algorithm's paper form, its exact gradient, and what people quote of it."""
    rows: list[tuple[str, ...]] = [("method", "process", "policy", "gradient in v_θ", "target")]
    rows.append(("---",) * 5)
    for symbolic, _ in ALGORITHMS:
        derivation = entry(symbolic.NAME).derivation
        *names, gradient, target = closing_row(derivation)
        *_, exact, _ = closing_row(derivation, exact=True)
        rows.append((*names, f"{exact} {gradient}" if gradient.startswith("≈") else gradient, target))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
