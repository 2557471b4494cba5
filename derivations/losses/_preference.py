r"""What losses on preferences share: −log σ(−z) of a margin z that is affine in this sample's gap g.

.. math:: g = \|v_\theta - v_{\mathrm{gt}}\|^2 - \|v_{\mathrm{anchor}} - v_{\mathrm{gt}}\|^2, \qquad
          \nabla\mathcal{L} = 2\, s\, q\, (v_\theta - v_{\mathrm{gt}}), \quad s = \partial z/\partial g,\ q = \sigma(z)

A pair or a group is stated as one of its samples sees it, with what the others contribute as a given number.
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from derivations.algorithm import Options, Pull
from derivations.calculus import Norm2, VectorSymbol
from derivations.claims import Equal, GradientIs
from derivations.derivation import Step
from derivations.losses._forward import held, per_coordinate, reference_weight
from derivations.notation import error_gap, misorder_prob, v_gt, v_ref, v_theta

__all__ = ["Preference", "doubt", "negative_log_likelihood"]


def negative_log_likelihood(margin: sp.Expr) -> sp.Expr:
    """−log σ(−margin)."""
    return sp.log(1 + sp.exp(margin))


def doubt(margin: sp.Expr) -> sp.Expr:
    """q = σ(margin), the probability of the wrong order."""
    return 1 / (1 + sp.exp(-margin))


@dataclass(frozen=True)
class Preference:
    """A loss −log σ(−margin).

    Attributes:
        margin: z, in this sample's ``error_gap``.
        share: ∂z/∂g.
        options: the declared ones.
        anchor: the velocity whose error is subtracted.
    """

    margin: sp.Expr
    share: sp.Expr
    options: Options
    anchor: VectorSymbol = v_ref

    @property
    def advantage(self) -> sp.Expr:
        """What stands where AWM has its advantage."""
        return self.share * misorder_prob

    @property
    def loss(self) -> sp.Expr:
        return negative_log_likelihood(self.margin)

    @property
    def pull(self) -> Pull:
        """With the reference term where one is declared."""
        each = per_coordinate(self.options)
        gradient = 2 * self.advantage * each * (v_theta - v_gt)
        target = v_theta + self.advantage * (v_gt - v_theta)
        return held(Pull(self.loss, gradient, each, target), reference_weight(self.options))

    @property
    def definitions(self) -> dict[sp.Symbol, sp.Expr]:
        each = per_coordinate(self.options)
        return {
            error_gap: each * (Norm2(v_theta - v_gt) - Norm2(self.anchor - v_gt)),
            misorder_prob: doubt(self.margin),
        }

    @property
    def likelihood_step(self) -> Step:
        return Step(
            "likelihood",
            "The loss is −log of the probability with which the model ranks as people, or the reward, did.",
            Equal(sp.exp(-self.loss), 1 - misorder_prob),
        )

    @property
    def gap_step(self) -> Step:
        return Step(
            "gap-gradient",
            "The gap has the flow-matching gradient: the error that is subtracted is a constant.",
            GradientIs(error_gap, 2 * per_coordinate(self.options) * (v_theta - v_gt), label="g"),
        )

    def start_step(self, others: sp.Symbol) -> Step:
        """Where the model is its own anchor, and so is everything that the other samples contribute."""
        name, words = (
            ("at-the-reference", "Before training the model is its reference")
            if self.anchor == v_ref
            else ("on-policy", "On-policy the model is the one that it is compared with")
        )
        return Step(
            name,
            f"{words}: it ranks by the toss of a coin, and half of the whole pull is left.",
            Equal(self.advantage, self.share / 2, {v_theta: self.anchor, others: sp.S.Zero}),
        )
