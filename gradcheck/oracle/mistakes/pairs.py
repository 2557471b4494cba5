r"""Mistakes in losses on pairs: whose preference it is, what the two samples are measured by, what is made of it."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import Norm2
from derivations.derivation import Derivation
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.functions import BatchMean

__all__ = ["pair_mistakes"]


def pair_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Diffusion-DPO's: the loss is log(1 + exp(z)), z = β y (g − g')."""
    if n.error_gap not in d.definitions:
        return
    y, beta = n.preference, n.beta_dpo
    margin = y * (n.error_gap - n.partner_gap)
    z = beta * margin
    for name, sentence, loss in (
        ("preference-exchanged", "winner and loser are exchanged", d.loss.xreplace({y: -y})),
        ("preference-missing", "every sample is taken for the winner of its pair", d.loss.xreplace({y: sp.S.One})),
        ("loser-dropped", "losers have no gradient: only winners train", (1 + y) / 2 * d.loss),
        ("beta-halved", "β is half the declared one inside the sigmoid", d.loss.xreplace({beta: beta / 2})),
        ("beta-doubled", "β is twice the declared one inside the sigmoid", d.loss.xreplace({beta: 2 * beta})),
        ("beta-missing", "β is missing", d.loss.xreplace({beta: sp.S.One})),
        ("beta-outside", "β multiplies the logarithm; it must multiply the gaps", beta * sp.log(1 + sp.exp(margin))),
        ("partner-sign", "the gaps of a pair are added up", d.loss.xreplace({n.partner_gap: -n.partner_gap})),
        ("partner-missing", "the partner's gap is missing", d.loss.xreplace({n.partner_gap: sp.S.Zero})),
        ("log-missing", "the probability of the wrong order is the loss, without a logarithm", 1 / (1 + sp.exp(-z))),
        ("sigmoid-missing", "the margin itself is the loss: learnt pairs never let go", z),
        (
            "margin-averaged",
            "the margin is averaged over the batch before the sigmoid",
            sp.log(1 + sp.exp(BatchMean(z))),
        ),
    ):
        yield name, sentence, loss, {}
    gap = d.definitions[n.error_gap]
    alone = gap.xreplace({Norm2(n.v_ref - n.v_gt): sp.S.Zero})
    yield "reference-missing", "the reference's error is missing from the gap", d.loss, {n.error_gap: alone}
