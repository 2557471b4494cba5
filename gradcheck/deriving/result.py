"""What ``gradcheck.derive`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from derivations.calculus import Norm2, sg
from derivations.derivation import Derivation, Proof
from derivations.directions import grouped
from derivations.grammar import Statement
from derivations.grammar.from_text import Derived as Derivative
from derivations.notation import v_theta
from gradcheck.deriving.checking import Checked
from gradcheck.deriving.matching import Match

__all__ = ["Derived", "InOutput"]


@dataclass(frozen=True)
class InOutput:
    """The same loss in what the network puts out, which is no velocity.

    Attributes:
        derivation: gradient, weight and target there.
        proof: every step of the change of variables, and of the new derivation, checked.
        check: autograd of the text in the output against the new gradient, on random problems.
    """

    derivation: Derivation
    proof: Proof
    check: Checked

    @property
    def holds(self) -> bool:
        """Whether every step was proved and every comparison of gradients passed."""
        return self.proof.holds and self.check.holds


@dataclass(frozen=True)
class Derived:
    """A loss that somebody wrote down, and what it does to the velocity.

    Attributes:
        statement: what was read: the loss, its process and the definitions that it rests on.
        form: the gradient on directions, and the squared distance where the loss is quadratic.
        proof: every step, checked.
        checks: autograd of the text against the derived gradient, on random problems.
        matches: the catalogue's entries that have this gradient.
        output: the same in what the network puts out, where that is no velocity.
    """

    statement: Statement
    form: Derivative
    proof: Proof
    checks: tuple[Checked, ...]
    matches: tuple[Match, ...]
    output: InOutput | None = None

    @property
    def holds(self) -> bool:
        """Whether every step was proved and every comparison of gradients passed."""
        own = self.proof.holds and all(check.holds for check in self.checks)
        return own and (self.output is None or self.output.holds)

    @property
    def derivation(self) -> Derivation:
        return self.form.derivation

    @property
    def loss(self) -> sp.Expr:
        return self.derivation.loss

    @property
    def gradient(self) -> sp.Expr:
        """∇loss in v_theta, exactly."""
        return self.derivation.gradient

    @property
    def weight(self) -> sp.Expr:
        return self.derivation.weight

    @property
    def target(self) -> sp.Expr:
        return self.derivation.target

    @property
    def equivalent_loss(self) -> sp.Expr:
        """weight · ‖v_theta − sg(target)‖²; without ``sg`` where it equals the loss in value up to a constant."""
        if self.exact == "value":
            return self.weight * Norm2(v_theta - self.target)
        return sg(self.weight) * Norm2(v_theta - sg(self.target))

    @property
    def exact(self) -> str:
        """In what the equivalent loss agrees: ``"value"`` (up to a constant, so in every derivative), ``"hessian"``
        (and gradient, detached factors held) or ``"gradient"``."""
        if not self.form.squared:
            return "gradient"
        return "value" if self.form.constant is not None and not self.form.detached else "hessian"

    @property
    def constant(self) -> sp.Expr | None:
        """loss − own_weight·‖v_theta − centre‖² of a quadratic loss, free of v_theta."""
        return self.form.constant

    @property
    def optimisation(self) -> sp.Expr:
        """The gradient's part that is no trust region."""
        return grouped(x for x in self.form.terms if not x.trust)

    @property
    def trust_region(self) -> sp.Expr:
        """The gradient's part along v_theta − v_old and v_theta − v_ref."""
        return grouped(x for x in self.form.terms if x.trust)

    @property
    def process(self) -> str:
        return self.statement.process

    @property
    def torch_source(self) -> str:
        """A Python module with ``target(…)`` and ``loss(…)`` in torch."""
        from gradcheck.deriving.torch_text import module_source

        return module_source(self)

    def text(self) -> str:
        """The findings in plain text."""
        from gradcheck.deriving.text import plain

        return plain(self)

    def markdown(self) -> str:
        """The findings in Markdown with LaTeX formulas, every step included."""
        from gradcheck.deriving.text import markdown

        return markdown(self)

    def latex(self) -> str:
        r"""Gradient, weight and target as one ``aligned`` block of LaTeX, for mathematics mode."""
        from gradcheck.deriving.text import latex_block

        return latex_block(self)

    def to_json(self) -> Mapping[str, Any]:
        """The findings as data (docs/derive.md)."""
        from gradcheck.deriving.json_text import to_json

        return to_json(self)

    def __repr__(self) -> str:
        return f"<{self.text()}>" if not self.holds else self.text()

    def _repr_markdown_(self) -> str:
        return self.markdown()

    def _repr_latex_(self) -> str:
        return f"$$\n{self.latex()}\n$$"
