"""``gradcheck.derive``: from a loss written down to what it does to the velocity."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from derivations.calculus import CalculusError
from derivations.claims import Positive
from derivations.derivation import DerivationError, inside_unit
from derivations.grammar import ParseError, read
from derivations.grammar.from_text import derive_statement
from derivations.grammar.statement import read_scalar
from derivations.notation import Quantity
from derivations.steps.parameterisation import OUTPUT, Prediction, changed
from derivations.steps.sde import REVERSE_STEPS
from derivations.writing.render import text
from gradcheck.clock import DeadlineError, deadline
from gradcheck.derived.typed import own_quantities
from gradcheck.deriving.checking import check
from gradcheck.deriving.matching import matches
from gradcheck.deriving.result import Derived, InOutput
from gradcheck.devices import own_modes
from gradcheck.errors import InputError

__all__ = ["TIME_LIMIT", "DeriveError", "derive"]

TIME_LIMIT = 120.0
"""Seconds that a derivation may take; the catalogue's longest takes about ten."""


class DeriveError(InputError):
    """An expression cannot be read or derived; the message shows the place."""

    def __init__(self, message: str, shown: str = "") -> None:
        super().__init__(("expression", shown.strip("\n"), message))
        self.message, self.shown = message, shown

    def __str__(self) -> str:
        return f"gradcheck derive: {self.message}" + (f"\n{self.shown}" if self.shown else "")


def derive(
    expression: str,
    *,
    let: Mapping[str, str] | None = None,
    given: Mapping[str, str] | None = None,
    wrt: str = "v_theta",
    sde: str | None = None,
    weight: str | None = None,
    problems: int = 24,
    seed: int = 0,
    time_limit: float | None = TIME_LIMIT,
) -> Derived:
    """Derive gradient, target and equivalent loss of a per-sample loss, prove and check them.

    Nothing in the expression is evaluated as Python; its size and the time that it may take are limited.

    Args:
        expression: the loss in the notation's names (docs/derive.md), to be minimised; definitions may stand before
            it, ``name = …``, separated by ``;`` or newlines.
        let: further definitions, by name.
        given: quantities of your own that the loss rests on, by name: data, each a ``"latent"``, one number per
            ``"sample"`` or one for the ``"problem"``; ``"sample > 0"`` and ``"problem > 0"`` are positive.
        wrt: what the network puts out: ``"v_theta"``, ``"noise_theta"`` or ``"x_0_theta"``.  The derivation is in the
            velocity; for another output the result has one more in it (``Derived.output``), by a change of variables.
        sde: the reverse step that gives C1, C2 and the mean's offset: ``"flow"``, ``"dance"``, ``"cps"``, ``"wan"`` or
            ``"ddim"``; by default they stay symbols.
        weight: a positive weight to use in the equivalent loss of a loss that is no squared distance.
        problems: random problems on which the gradient is compared with autograd's, in float64; half in float32.
        seed: of the problems.
        time_limit: seconds; ``None`` for no limit.

    Returns:
        The findings.  ``holds`` is false where a step was not proved or autograd disagrees; look at it.

    Raises:
        InputError: the expression cannot be read or derived, or another argument is wrong.

    Example:
        >>> from gradcheck.deriving.api import derive
        >>> from derivations.writing.render import text
        >>> text(derive("A*norm2(v_theta - v_gt)").target)
        'v_θ + A(v_gt − v_θ)'
    """
    _check_arguments(expression, let, wrt, sde, problems, time_limit)
    try:
        with own_modes(), deadline(time_limit):
            return _derive(
                expression, dict(let or {}), own_quantities(given), _OUTPUTS[wrt], sde, weight, problems, seed
            )
    except DeadlineError:
        raise DeriveError(f"the derivation took longer than {time_limit:g} s; raise the limit, or simplify") from None
    except ParseError as error:
        raise DeriveError(error.message, error.shown()) from None
    except (CalculusError, DerivationError) as error:
        raise DeriveError(str(error)) from None
    except RecursionError:
        raise DeriveError("the expression is too deep to be derived") from None


_OUTPUTS = {name: what for what, symbol in OUTPUT.items() for name in (symbol.name, text(symbol))}
"""Names of what a network puts out → what it predicts."""


def _derive(
    expression: str,
    let: dict[str, str],
    given: Mapping[str, Quantity],
    what: Prediction,
    sde: str | None,
    weight: str | None,
    problems: int,
    seed: int,
) -> Derived:
    statement = read(expression, let, given)
    form = derive_statement(statement, sde, None if weight is None else _weight(weight))
    proof = form.derivation.prove()
    checks = [check(statement, form, "float64", problems, seed)]
    if problems > 1:
        checks.append(check(statement, form, "float32", problems // 2, seed))
    output = None
    if what != "v":
        changed_form = changed(form.derivation, what)
        checked = check(statement, form, "float64", problems, seed, changed_form)
        output = InOutput(changed_form, changed_form.prove(), checked)
    return Derived(statement, form, proof, tuple(checks), matches(form.derivation), output)


def _weight(text: str) -> sp.Expr:
    weight = read_scalar(text)
    if Positive(weight, inside_unit(weight)).residual(lambda expr: expr) != 0:
        raise InputError(("weight", repr(text), "an expression that is positive whatever its quantities are"))
    return weight


def _check_arguments(
    expression: object, let: object, wrt: object, sde: object, problems: object, time_limit: object
) -> None:
    wrong: list[tuple[str, str, str]] = []
    if not isinstance(expression, str):
        wrong.append(("expression", f"a {type(expression).__name__}", "a text"))
    if let is not None and not (
        isinstance(let, Mapping) and all(isinstance(x, str) for pair in let.items() for x in pair)
    ):
        wrong.append(("let", f"{let!r:.60}", "a mapping of names to expressions, both texts"))
    if not isinstance(wrt, str) or wrt not in _OUTPUTS:
        outputs = ", ".join(repr(symbol.name) for symbol in OUTPUT.values())
        wrong.append(("wrt", f"{wrt!r:.60}", f"what a network puts out, one of {outputs}"))
    steps = tuple(step.name for step in REVERSE_STEPS)
    if sde is not None and sde not in steps:
        wrong.append(("sde", f"{sde!r:.60}", f"one of {', '.join(steps)}, or none"))
    if isinstance(problems, bool) or not isinstance(problems, int) or not 1 <= problems <= 10_000:
        wrong.append(("problems", f"{problems!r:.60}", "an integer from 1 to 10000"))
    if time_limit is not None and not (isinstance(time_limit, (int, float)) and 0 < time_limit < 1e6):
        wrong.append(("time_limit", f"{time_limit!r:.60}", "a positive number of seconds, or None"))
    if wrong:
        raise InputError(*wrong)
