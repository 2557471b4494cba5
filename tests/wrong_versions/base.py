"""What a wrong version is, and how one is made from the library's own source."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import derivations
from derivations.derivation import Derivation

__all__ = ["Edit", "WrongTarget", "WrongTheorem", "WrongVersion", "fresh", "numeric_chain", "symbolic_chain"]

_ROOT = Path(derivations.__file__).parent.parent

DDIM = "derivations/steps/ddim.py"
SDE = "derivations/steps/sde.py"
LEMMAS = "derivations/lemmas.py"
IDENTITIES = "derivations/identities.py"
POLICY = "derivations/losses/_policy_gradient.py"
MODES = "derivations/losses/_advantage_modes.py"
FORWARD = "derivations/losses/_forward.py"
PREFERENCE = "derivations/losses/_preference.py"
COMMON = "gradcheck/losses/_common.py"
FORWARD_TORCH = "gradcheck/losses/_forward.py"


@dataclass(frozen=True)
class Edit:
    """Exchange of one piece of source text for another.

    Attributes:
        file: relative to the repository's root.
        old: what stands there now, exactly ``times`` times.
        new: what the wrong version has instead.
    """

    file: str
    old: str
    new: str
    times: int = 1

    def apply(self, source: str) -> str:
        """The edited source.

        Raises:
            LookupError: the source changed, so that the edit no longer says what it did.
        """
        found = source.count(self.old)
        if found != self.times:
            raise LookupError(
                f"{self.file} holds {self.old!r} {found} times, not {self.times}: mend this wrong version"
            )
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class WrongVersion:
    """One way to get an algorithm wrong, in either route or in both.

    Attributes:
        name: the test's id.
        bug: the class of bug, in a sentence.
        symbolic: the edit of the derivation.
        refused_by: the step that refuses it; ``"DerivationError"``, where the derivation cannot even be stated;
            or ``"comparison"``, where another loss is stated and derived without a mistake, so that the proof
            holds and only the comparison with the loss written by hand can tell.
        theorem: the theorem whose proof refuses the edit, where that is not the algorithm's own derivation.
        numeric: the edit of the loss written by hand.
        numeric_refused_by: the comparisons that refuse it.
        variant: of the algorithm.
    """

    name: str
    bug: str
    symbolic: Edit | None = None
    refused_by: str = ""
    theorem: str = ""
    numeric: Edit | None = None
    numeric_refused_by: frozenset[str] = frozenset({"gradient", "equivalence"})
    variant: str = "paper"


@dataclass(frozen=True)
class WrongTarget:
    """A derivation whose loss and gradient are right and whose target or weight is not; ``equivalence`` refuses it."""

    name: str
    bug: str
    wrong: Callable[[Derivation], dict[str, Any]]
    variant: str = "paper"


@dataclass(frozen=True)
class WrongTheorem:
    """A lemma, reverse step or identity with a mistake, and the step that refuses it."""

    name: str
    bug: str
    theorem: str
    edit: Edit
    refused_by: str


def symbolic_chain(algorithm: str) -> tuple[str, ...]:
    """The files behind a derivation, each after those that it imports from."""
    return DDIM, SDE, POLICY, MODES, FORWARD, PREFERENCE, f"derivations/losses/{algorithm}.py"


def numeric_chain(algorithm: str) -> tuple[str, ...]:
    """The files behind a loss written by hand, likewise."""
    return COMMON, FORWARD_TORCH, f"gradcheck/losses/{algorithm}.py"


def fresh(chain: Sequence[str], *edits: Edit) -> ModuleType:
    """The last file of the chain as a new module, made from edited sources; the imported ones stay as they are."""
    strangers = {edit.file for edit in edits} - set(chain)
    if strangers:
        raise LookupError(f"{', '.join(sorted(strangers))} is not among {', '.join(chain)}")
    names = [path.removesuffix(".py").replace("/", ".") for path in chain]
    kept = {name: sys.modules.get(name) for name in names}
    started = False
    try:
        for path, name in zip(chain, names, strict=True):
            source = (_ROOT / path).read_text(encoding="utf-8")
            started = started or path == chain[-1] or any(edit.file == path for edit in edits)
            if not started:
                continue
            for edit in edits:
                if edit.file == path:
                    source = edit.apply(source)
            module = ModuleType(name)
            module.__file__ = str(_ROOT / path)
            sys.modules[name] = module
            exec(compile(source, f"<wrong version of {path}>", "exec", dont_inherit=True), module.__dict__)
    finally:
        for name, original in kept.items():
            if original is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = original
    return module
