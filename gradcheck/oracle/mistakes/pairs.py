r"""Mistakes in losses on pairs and groups: whose preference it is, what samples are measured by, what is made of it."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import Norm2, sg
from derivations.derivation import Derivation
from derivations.pieces import Piece
from gradcheck.oracle.mistakes.candidates import Candidate, Overrides
from gradcheck.oracle.mistakes.functions import AllPairs, BatchMean, Others, Right

__all__ = ["of_the_unit", "pair_mistakes"]


def pair_mistakes(d: Derivation) -> Iterator[Candidate]:
    """In the gap, and in what a pair's or a group's likelihood makes of it."""
    if Piece.PREFERENCE not in d.pieces:
        return
    if Piece.LIKELIHOOD in d.pieces:
        yield from _likelihood_mistakes(d)
    gap = d.definitions[n.error_gap]
    subtracted = {x: sp.S.Zero for x in gap.atoms(Norm2) if not x.has(n.v_theta)}
    other = "behaviour" if any(x.has(n.v_old) for x in subtracted) else "reference"
    yield (
        "reference-missing",
        f"the {other} model's error is not subtracted: the gap is the trained model's error alone",
        d.loss,
        {n.error_gap: gap.xreplace(subtracted)},
    )
    yield (
        "reference-sign",
        f"the {other} model's error is added; it must be subtracted from the trained model's",
        d.loss,
        {n.error_gap: gap.xreplace({x: -x for x in subtracted})},
    )
    yield (
        "beta-on-one-error",
        f"β multiplies the trained model's error alone; it must multiply the {other} model's too",
        d.loss,
        {n.error_gap: gap.xreplace({x: x / n.beta_dpo for x in subtracted})},
    )
    if Piece.PAIR in d.pieces:
        yield from _shared_targets(d)


def _shared_targets(d: Derivation) -> Iterator[Candidate]:
    """Two samples of a pair share noise and time, and have data of their own."""
    target, y = d.definitions.get(n.v_gt, n.v_gt), n.preference
    won, lost = (1 + y) / 2, (1 - y) / 2
    for name, sentence, wrong in (
        ("target-of-winner", "the loser is compared with the winner's target", won * target + lost * Others(target)),
        ("target-of-loser", "the winner is compared with the loser's target", lost * target + won * Others(target)),
        ("target-of-partner", "each sample is compared with its partner's target", Others(target)),
    ):
        yield name, f"{sentence}; each has its own", d.loss, {n.v_gt: wrong}


def of_the_unit(d: Derivation, edits: Overrides, reached: frozenset[sp.Symbol]) -> Iterator[Overrides]:
    """The same mistake in code that computes the gaps of a sample's partner, or group, with it."""
    if n.error_gap not in reached or Piece.PREFERENCE not in d.pieces:
        return
    if Piece.PAIR in d.pieces:
        other, gap = n.partner_gap, n.error_gap
    else:
        other, gap = n.group_gap, n.advantage * n.error_gap
    if other not in edits:
        yield {**edits, other: Others(sg(gap))}


def _likelihood_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The policy's loss is log(1 + exp(z)), z = β y (g − g') of a pair, or β (A g + s) of a group."""
    beta = n.beta_dpo
    for name, sentence, value in (
        ("beta-halved", "β is half the declared one inside the sigmoid", Right(beta) / 2),
        ("beta-doubled", "β is twice the declared one inside the sigmoid", 2 * Right(beta)),
        ("beta-missing", "β is missing", sp.S.One),
    ):
        yield name, sentence, d.loss, {beta: value}
    of_a_pair = Piece.PAIR in d.pieces
    if of_a_pair:
        other, y = n.partner_gap, n.preference
        yield "partner-sign", "the gaps of a pair are added up", d.loss, {other: -Right(other)}
        yield "partner-missing", "the partner's gap is missing", d.loss, {other: sp.S.Zero}
        yield "preference-exchanged", "winner and loser are exchanged", d.loss, {y: -Right(y)}
        yield "preference-missing", "every sample is taken for the winner of its pair", d.loss, {y: sp.S.One}
    policy = d.loss.xreplace({n.kl_weight: sp.S.Zero})
    rest = d.loss - policy
    (likelihood,) = policy.atoms(sp.exp)
    z = likelihood.args[0]
    for name, sentence, loss in (
        *(_of_a_pair(policy) if of_a_pair else _of_a_group(policy)),
        *(
            ("link-hinge", f"a hinge stands where −log sigmoid must: max(0, {c} − margin)", sp.Max(0, c + z))
            for c in (0, 1)
        ),
        *(
            ("link-squared", f"a squared margin stands where −log sigmoid must (IPO): (margin − {word})²", (z + c) ** 2)
            for word, c in (("½", sp.Rational(1, 2)), ("1", sp.S.One), ("β/2", beta / 2))
        ),
        (
            "link-squared",
            "a squared margin stands where −log sigmoid must (IPO): (margin/β − 1/(2β))²",
            (z / beta + 1 / (2 * beta)) ** 2,
        ),
        ("link-exponential", "exp(−margin) stands where −log sigmoid must", sp.exp(z)),
        ("over-beta", "the loss is divided by β", sp.log(1 + sp.exp(z)) / beta),
        ("beta-outside", "β multiplies the logarithm; it must multiply the gaps", beta * sp.log(1 + sp.exp(z / beta))),
        ("log-missing", "the probability of the wrong order is the loss, without a logarithm", 1 / (1 + sp.exp(-z))),
        ("sigmoid-missing", "the margin itself is the loss: what is learnt never lets go", z),
        (
            "margin-averaged",
            "the margin is averaged over the batch before the sigmoid",
            sp.log(1 + sp.exp(BatchMean(z))),
        ),
    ):
        yield name, sentence, loss + rest, {}


def _of_a_pair(loss: sp.Expr) -> Iterator[tuple[str, str, sp.Expr]]:
    y = n.preference
    crossed = "every winner is compared with every loser of the batch: (B,) is broadcast against (B, 1)"
    yield "pairs-crossed", crossed, AllPairs(n.beta_dpo, n.error_gap, y)
    yield "loser-dropped", "losers have no gradient: only winners train", (1 + y) / 2 * loss


def _of_a_group(loss: sp.Expr) -> Iterator[tuple[str, str, sp.Expr]]:
    a, others = n.advantage, n.group_gap
    yield "preference-exchanged", "good and bad samples are exchanged", loss.xreplace({a: -a})
    yield "advantage-sign-alone", "only the advantage's sign counts", loss.xreplace({a: sp.sign(a)})
    yield "bad-samples-without-gradient", "bad samples have no gradient", (1 + sp.sign(a)) / 2 * loss
    yield "group-sign", "the rest of the group is subtracted", loss.xreplace({others: -others})
    yield (
        "group-missing",
        "the rest of the group is missing: each sample has a sigmoid of its own",
        loss.xreplace({others: sp.S.Zero}),
    )
