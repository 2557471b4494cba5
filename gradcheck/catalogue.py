"""The catalogue: one line for each algorithm joins its symbolic file to its torch file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module

from torch import Tensor

from derivations.algorithm import Algorithm
from derivations.derivation import Derivation
from derivations.steps.parameterisation import ErrorSpace, Prediction, changed
from derivations.writing.render import closing_row
from gradcheck.case import Case
from gradcheck.errors import InputError, forgiven, one_of
from gradcheck.losses._parameterisation import as_velocities, in_velocities

__all__ = ["ALGORITHMS", "CATALOGUE", "ByHand", "Entry", "closing_table", "entries", "entry", "wanted_entry"]


ByHand = Callable[..., Tensor]
"""The original per-sample loss of a :class:`~gradcheck.case.Case` and options, shape (B,), written by hand."""


@lru_cache(maxsize=1000)
def _derive(algorithm: Algorithm, variant: str) -> Derivation:
    return algorithm.derive(variant)


@dataclass(frozen=True)
class Entry:
    """One variant of one algorithm: its derivation and its hand-written torch loss.

    Attributes:
        algorithm: what is stated.
        by_hand: the algorithm's torch loss.
        variant: the name of one of its variants.
        prediction: what the network puts out, ``"v"``, ``"epsilon"`` or ``"x0"``.
        noise_at: the time at which x_t is all noise, 1 or 0.
        error_space: where a regression error is measured, ``"velocity"`` or ``"output"``.
    """

    algorithm: Algorithm
    by_hand: ByHand
    variant: str
    prediction: Prediction = "v"
    noise_at: int = 1
    error_space: ErrorSpace = "velocity"

    @property
    def label(self) -> str:
        """As the derivation's, without deriving it."""
        parts = [self.variant] if self.variant != "paper" else []
        parts += ["noise_at=0"] if self.noise_at == 0 else []
        if self.prediction != "v":
            parts.append(f"{self.prediction} error" if self.error_space == "output" else self.prediction)
        return f"{self.algorithm.name}[{', '.join(parts)}]" if parts else self.algorithm.name

    @property
    def derivation(self) -> Derivation:
        return changed(_derive(self.algorithm, self.variant), self.prediction, self.noise_at, self.error_space)

    def under(self, prediction: Prediction = "v", noise_at: int = 1, error_space: ErrorSpace = "velocity") -> Entry:
        """The same loss for networks that predict ``"epsilon"`` or ``"x0"``, or with the noise at t = 0."""
        return replace(self, prediction=prediction, noise_at=noise_at, error_space=error_space)

    def loss(self, case: Case) -> Tensor:
        """The original per-sample loss, shape (B,), differentiable in ``case.output``."""
        if (self.prediction, self.noise_at) != ("v", 1):
            convert = as_velocities if self.error_space == "output" else in_velocities
            path = self.derivation.path
            case = convert(case, prediction=self.prediction, noise_at=self.noise_at, path=path)
        return self.by_hand(case, **self.derivation.variant.options)


_NAMES = (
    "flow_grpo",
    "grpo_guard",
    "flow_dppo",
    "ddpo",
    "reinforce",
    "awm",
    "diffusion_nft",
    "rwr",
    "awr",
    "fpo",
    "diffusion_dpo",
    "dgpo",
)
"""Of both files of each algorithm, in ``derivations/losses`` and ``gradcheck/losses``: the one line that joins them."""


def _joined(name: str) -> tuple[Algorithm, ByHand]:
    return import_module(f"derivations.losses.{name}").ALGORITHM, import_module(f"gradcheck.losses.{name}").loss


_JOINED = tuple(map(_joined, _NAMES))

ALGORITHMS: tuple[Algorithm, ...] = tuple(algorithm for algorithm, _ in _JOINED)
"""Each algorithm, as its symbolic file states it."""

CATALOGUE: tuple[Entry, ...] = tuple(
    Entry(algorithm, by_hand, variant.name) for algorithm, by_hand in _JOINED for variant in algorithm.variants
)
"""Every variant of every algorithm."""


def entries(*names: str) -> tuple[Entry, ...]:
    """Entries by name: ``flow_grpo`` (every variant), ``flow_grpo[mean]`` (one), or none for all.

    Names are forgiven their case, spaces and hyphens: ``Flow-GRPO`` is ``flow_grpo``.

    Raises:
        InputError: a name is unknown; the message suggests those that are like it.
    """
    if not names:
        return CATALOGUE
    chosen: dict[str, Entry] = {}
    unknown = []
    for given in names:
        name = forgiven(given, _names_of_entries())
        found = [e for e in CATALOGUE if name in (e.label, e.algorithm.name, f"{e.algorithm.name}[{e.variant}]")]
        if not found:
            unknown.append(("name", repr(given), wanted_entry(given)))
        chosen.update({e.label: e for e in found})
    if unknown:
        raise InputError(*unknown)
    return tuple(chosen.values())


@lru_cache(maxsize=1)
def _names_of_entries() -> tuple[str, ...]:
    """Every way to name an entry, or all of an algorithm."""
    labels = [f"{e.algorithm.name}[{e.variant}]" for e in CATALOGUE]
    return tuple(dict.fromkeys([*(a.name for a in ALGORITHMS), *labels]))


def wanted_entry(given: str, others: Sequence[str] = ()) -> str:
    """What is wanted in place of an unknown name: the algorithms, or the forms of the one that was named.

    ``others`` are names that would be understood as well.
    """
    name, bracket, _ = given.partition("[")
    algorithms = [a.name for a in ALGORITHMS]
    known = forgiven(name, algorithms)
    if bracket and known in algorithms:
        forms = [e.label for e in CATALOGUE if known == e.algorithm.name]
        return one_of(given, forms, "")
    named_so = [e.label for e in CATALOGUE if _mentions(e.derivation.variant.summary, given)]
    if named_so:
        return f"{' or '.join(named_so[:3])}, which is {given}"
    elsewhere = "a loss, a lemma or a theorem (`gradcheck list` and `gradcheck list --theorems` show all)"
    return one_of(given, [*algorithms, *others], elsewhere)


def _mentions(summary: str, given: str) -> bool:
    """Whether a form's summary has its own name for it in brackets: (DanceGRPO)."""
    return any(forgiven(given, [word]) == word for word in re.findall(r"\(([\w-]+)\)", summary))


def entry(name: str, variant: str = "paper") -> Entry:
    """One entry, by algorithm and variant.

    Raises:
        InputError: there is no such algorithm or variant.
    """
    known = forgiven(name, [a.name for a in ALGORITHMS])
    of_name = [e for e in CATALOGUE if known == e.algorithm.name]
    if not of_name:
        raise InputError(("name", repr(name), wanted_entry(str(name))))
    forms = [e.variant for e in of_name]
    for e in of_name:
        if e.variant == forgiven(variant, forms):
            return e
    raise InputError(("variant", repr(variant), one_of(variant, forms, "")))


def closing_table() -> str:
    """The closing table in Markdown: every algorithm's paper form, its exact gradient, and what people quote of it."""
    rows: list[tuple[str, ...]] = [("method", "process", "policy", "gradient in v_θ", "target")]
    rows.append(("---",) * 5)
    for algorithm in ALGORITHMS:
        derivation = entry(algorithm.name).derivation
        *names, gradient, target = closing_row(derivation)
        *_, exact, _ = closing_row(derivation, exact=True)
        rows.append((*names, f"{exact} {gradient}" if gradient.startswith("≈") else gradient, target))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
