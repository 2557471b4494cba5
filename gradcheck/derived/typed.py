r"""A loss that stands in no catalogue: stated in one line, derived, and proved before anything is judged by it.

The text becomes a :class:`~derivations.derivation.Derivation` like a catalogue entry's, so that problems,
error bounds and obligations follow from its formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

from derivations.calculus import CalculusError
from derivations.derivation import Derivation, DerivationError
from derivations.grammar import ParseError, read
from derivations.grammar.from_text import derive_statement
from derivations.grammar.names import CONSTANTS, FUNCTIONS
from derivations.notation import Quantity, own_quantity
from derivations.steps.sde import REVERSE_STEPS, StepName
from derivations.variant import Variant
from gradcheck.errors import InputError

__all__ = ["STEPS", "TypedLoss", "own_quantities", "stated"]

STEPS: tuple[StepName, ...] = tuple(step.name for step in REVERSE_STEPS)
"""The reverse steps that may stand behind a typed loss's C1 and C2; the first is the default."""


@dataclass(frozen=True)
class TypedLoss:
    """What stands in an algorithm's place in the catalogue: the options that it has, and its derivation."""

    loss: str
    given: tuple[tuple[str, str], ...] = ()

    name: ClassVar[str] = "loss"
    variants: ClassVar[tuple[Variant, ...]] = (Variant("paper", "a loss that was written down"),)

    @cached_property
    def options(self) -> Mapping[str, tuple[str, ...]]:
        """As :class:`~derivations.algorithm.Algorithm` has them: the reverse steps that may be declared."""
        return {"sde": STEPS} if stated(self.loss, given=self.given).process == "backward" else {}

    def derive(self, variant: Variant = variants[0]) -> Derivation:
        """The derivation of the line, on the reverse step that the variant chooses."""
        return stated(self.loss, variant.options.get("sde", STEPS[0]), self.given)


def own_quantities(given: Mapping[str, str] | None) -> Mapping[str, Quantity]:
    """The rows of quantities that a user's loss brings along, by name.

    Raises:
        InputError: a name is none, or taken, or its kind is unknown.
    """
    found, problems = {}, []
    if given is not None and not isinstance(given, Mapping):
        raise InputError(("given", f"{given!r:.60}", "a mapping of names to kinds: {'adjoint': 'latent'}"))
    for name, kind in (given or {}).items():
        if not isinstance(name, str) or not name.isidentifier() or name in FUNCTIONS or name in CONSTANTS:
            problems.append(("given", f"the name {name!r:.60}", "an identifier that is not a function's name"))
            continue
        try:
            found[name] = own_quantity(name, kind)
        except (ValueError, TypeError) as error:
            problems.append(("given", f"{name}={kind!r:.60}", str(error)))
    if problems:
        raise InputError(*problems)
    return found


def stated(loss: str, sde: str = STEPS[0], given: tuple[tuple[str, str], ...] = ()) -> Derivation:
    """The proved derivation of a typed loss.

    Args:
        loss: the per-sample loss, to be minimised, in the notation's names (docs/derive.md).
        sde: the reverse step that gives C1 and C2, where the loss rests on one.
        given: quantities of the user's own, pairs of a name and a kind (:data:`~derivations.notation.OWN_KINDS`).

    Raises:
        InputError: the text cannot be read, derived or proved; the message shows the place.
    """
    return _stated(loss, sde, given)


@lru_cache(maxsize=256)
def _stated(loss: str, sde: str, given: tuple[tuple[str, str], ...]) -> Derivation:
    try:
        derivation = derive_statement(read(loss, given=own_quantities(dict(given))), sde).derivation
        refused = derivation.prove().refused
    except ParseError as error:
        wanted = f"an expression that can be read: {error.message}\n{error.shown()}".rstrip()
        raise InputError(("loss", repr(loss if len(loss) <= 60 else f"{loss[:60]} …"), wanted)) from None
    except (CalculusError, DerivationError) as error:
        raise InputError(("loss", repr(loss), f"a loss that can be derived: {error}")) from None
    except RecursionError:
        raise InputError(("loss", f"{loss[:60]!r} …", "a loss that is less deep")) from None
    if refused:
        names = ", ".join(r.step.name for r in refused)
        raise InputError(("loss", repr(loss), f"a loss whose derivation is proved, but these steps are not: {names}"))
    return derivation
