r"""Mistakes that can be made with any quantity of any loss: its sign, its power, another sample's, the batch's mean.

And with what any loss does to one: what it detaches and what it bounds.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import ClipMask, Unless, VectorSymbol, sg
from derivations.derivation import Derivation
from derivations.notation import quantity
from derivations.pieces import Piece
from derivations.writing.render import text
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.functions import BatchFirst, BatchMean, Neighbour, Right
from gradcheck.oracle.mistakes.places import KL, POLICY, Stated, stated

__all__ = ["node_mistakes", "quantity_mistakes"]

_MADE_ELSEWHERE = ("delta", "Delta", "k", "advantage_tilde", "misorder_prob")
"""Short names of the notation: no implementation computes them."""


def quantity_mistakes(d: Derivation) -> Iterator[Candidate]:
    """One quantity, wrong wherever it stands."""
    own = stated(d)
    for name in (*d.given, *d.defined):
        row = quantity(name)
        symbol = row.symbol
        if symbol == d.output or name in ("D", "x_prev", "clip_low", "clip_high", *_MADE_ELSEWHERE):
            continue
        vector = isinstance(symbol, VectorSymbol)
        of = text(symbol)
        slug = name.replace("_", "-")
        right = own.table.get(symbol, Right(symbol))
        if right.is_number:
            continue

        def put(what: str, sentence: str, value: sp.Expr, symbol: sp.Symbol = symbol, slug: str = slug) -> Candidate:
            return f"{slug}-{what}", sentence, d.loss, {symbol: value}

        if row.axes != "problem":
            out_of_step = f"{of} is another sample's: the batch is out of step (a roll, a shuffle, an off-by-one)"
            for by in (1, -1):
                yield put("of-neighbour", out_of_step, Neighbour(right, by))
            yield put("of-first-sample", f"{of} is the first sample's for every sample", BatchFirst(right))
            yield put("averaged", f"{of} is averaged over the batch; it must be per sample", BatchMean(right))
        factor = not vector and _multiplies(symbol, d.loss)  # of the whole loss, and told as one
        if (name != "advantage" or Piece.TEMPERATURE in d.pieces) and not (factor and symbol in own.table):
            yield put("sign", f"{of} has the wrong sign", -right)
        if vector:
            yield put("missing", f"{of} is missing", sp.S.Zero * right)
            if right == Right(symbol) or name == "v_gt":  # what is computed of others is their step's or target's
                yield put("doubled", f"{of} is twice what it must be", 2 * right)
                yield put("halved", f"{of} is half of what it must be", right / 2)
            continue
        yield put("missing", f"{of} is missing: 1 stands in its place", sp.S.One)
        yield put("zero", f"{of} is missing: 0 stands in its place", sp.S.Zero)
        yield put("squared", f"{of} is squared", right**2)
        if not factor and (name != "advantage" or Piece.TEMPERATURE in d.pieces):
            yield put("doubled", f"{of} is twice what it must be", 2 * right)
            yield put("halved", f"{of} is half of what it must be", right / 2)
        yield put("inverted", f"1/{of} stands where {of} must", 1 / right)
        if name == "t":
            yield put("timestep", "the scheduler's timestep, 1000 t, stands where t must", 1000 * right)
        if name in ("t", "reward_prob", "window"):
            yield put("complement", f"1 − {of} stands where {of} must", 1 - right)
        if symbol.is_nonnegative:
            yield put("rooted", f"the root of {of} stands where {of} must", sp.sqrt(right))
        else:
            yield put("absolute", f"the sign of {of} is lost", sp.Abs(right))
        if name in ("t", "reward_prob"):
            for margin in ("1/100", "1/50", "1/20", "1/10", "1/5"):
                low = sp.Rational(margin)
                inside = sp.Max(sp.Min(right, 1 - low), low)
                sentence = f"{of} is clamped to [{float(low):g}, {float(1 - low):g}]; it must be used as it is"
                yield put("clamped", sentence, inside)
        if symbol in own.table:
            yield put("detached", f"{of} is detached: its gradient is missing", sg(right))
    for term, word in ((POLICY, "the policy's term"), (KL, "the KL or reference term")):
        if term in own.table and (KL in own.table):
            for symbol in (n.dt, n.t, n.D):
                if symbol.name in (*d.given, "D"):
                    for power, verb in ((1, "multiplied"), (-1, "divided")):
                        yield (
                            f"{'policy' if term == POLICY else 'kl'}-{verb}",
                            f"{word} is {verb} by {text(symbol)} once too often",
                            d.loss,
                            {term: own.table[term] * symbol**power},
                        )


def _multiplies(symbol: sp.Symbol, loss: sp.Expr) -> bool:
    """Whether twice the quantity is twice the loss: then that is a factor, and no mistake in the quantity."""
    return bool(sp.expand(loss.xreplace({symbol: 2 * symbol}) - 2 * loss) == 0)


def node_mistakes(d: Derivation) -> Iterator[Candidate]:
    """What a formula detaches or bounds: differentiated, or bounded otherwise."""
    own = stated(d)
    fixed = {quantity(name).symbol for name in (*d.given, *d.defined) if quantity(name).axes == "problem"}
    for symbol, formula in own.table.items():
        for held in sorted(formula.atoms(sg), key=str):
            if isinstance(held.args[0], ClipMask | Unless):
                continue  # it has no gradient anyway
            sentence = f"{_in_words(held.args[0], own)} is differentiated; it must be detached"
            yield "weight-live", sentence, d.loss, {symbol: formula.xreplace({held: held.args[0]})}
        for node in sorted(formula.atoms(sp.Min, sp.Max), key=str):
            bounds = [x for x in node.args if x.free_symbols <= fixed]
            if len(node.args) == 2 and len(bounds) == 1:
                (bounded,) = set(node.args) - set(bounds)
                for name, sentence, wrong in _otherwise_bounded(node, bounded, bounds[0], _in_words(bounded, own)):
                    yield name, sentence, d.loss, {symbol: formula.xreplace({node: wrong})}


def _otherwise_bounded(node: sp.Expr, bounded: sp.Expr, bound: sp.Expr, of: str) -> Iterator[tuple[str, str, sp.Expr]]:
    above = isinstance(node, sp.Min)
    here, there = ("above", "below") if above else ("below", "above")
    other = sp.Max if above else sp.Min
    to = text(bound)
    yield "bound-missing", f"{of} is not bounded; it must be from {here}, by {to}", bounded
    yield "bound-reversed", f"{of} is bounded by {to} from {there}; it must be from {here}", other(bounded, bound)
    width = sp.expand(bound - 1) if above else sp.expand(1 - bound)
    if width.is_Symbol and width.is_positive:  # 1 + ε, as an importance weight is bounded
        opposite = 1 - width if above else 1 + width
        both = f"{of} is bounded from {there}, too, by {text(opposite)}; it must be from {here} alone"
        yield "bound-on-both-sides", both, other(node, opposite)
        yield "bound-reversed", f"{of} is bounded by {text(opposite)} from {there}", other(bounded, opposite)
        yield "bound-without-one", f"{of} is bounded by {text(width)}; it must be by {to}", node.func(bounded, width)


def _in_words(expr: sp.Expr, own: Stated) -> str:
    """A formula without the places that stand in it."""
    while places := [s for s in expr.free_symbols if s in own.table and s.name.startswith("place:")]:
        expr = expr.xreplace({s: own.table[s] for s in places})
    return text(expr)
