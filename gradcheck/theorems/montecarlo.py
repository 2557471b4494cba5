r"""The theorems' second route: means over Gaussian noise by drawing it, where the proofs use rules.

A statement that two sides are equal on average is evaluated for random numbers in place of its symbols, a random D, and
antithetic noise: pairs z, −z, so that what is odd in z cancels.  The pairs' average is compared with what the statement
says; its standard error over the pairs is the bound.  No rule of :mod:`derivations.theorems.expectations` is used here.

``python -m gradcheck.theorems.montecarlo --problems 1000`` tries every theorem on that many problems, and exits with
1 if one disagrees.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sympy as sp
import torch
from torch import Tensor

from derivations.algebra.nodes import Below, Mean, NormalCDF
from derivations.calculus import Dot, Norm2, VectorSymbol, drop_sg, kind
from derivations.derivation import Step
from derivations.proof.premises import Inliner
from derivations.theorems import THEOREMS
from derivations.theorems.expectations import ExpectationIs, GaussianTheorem
from gradcheck.errors import InputError

__all__ = ["BARS", "Agreement", "Draw", "agreement", "draw", "expectations", "main"]

BARS = 6.0
"""Standard errors by which a mean may be off.  A mean of N pairs is Gaussian but for a skewness of its summand's over
√N; 6 of them are passed once in 5·10⁸ draws, and some 10⁵ are made in a long run, so that the heavier tails of
e^{⟨b, z⟩} do not matter."""

BIAS = 5.0
"""Standard errors by which the differences of many problems may be off together: what each hides, all together show."""

DIMENSIONS = (1, 2, 3, 5, 8, 16, 48)
_PAIRS = 1024
_ROUNDING = 64 * 2.0**-53  # some dozens of operations on each sample and a pairwise sum, of the sizes that cancel


@dataclass(frozen=True)
class Draw:
    """One statement on one problem.

    Attributes:
        difference: the drawn mean of left − right; of a vector, its component along a random
            direction that leans towards what is required.
        bar: its standard error, what rounding may add included.
    """

    step: str
    dimension: int
    difference: float
    bar: float

    @property
    def deviation(self) -> float:
        """The difference in standard errors."""
        return self.difference / self.bar

    @property
    def holds(self) -> bool:
        return abs(self.deviation) <= BARS


@dataclass(frozen=True)
class Agreement:
    """One statement on many problems."""

    step: str
    draws: tuple[Draw, ...]

    @property
    def worst(self) -> float:
        return max(abs(d.deviation) for d in self.draws)

    @property
    def bias(self) -> float:
        """The sum of the differences in its own standard errors.

        Not the mean deviation, which a skewed summand biases: where its mean comes out high, so does its error.
        """
        return sum(d.difference for d in self.draws) / math.sqrt(sum(d.bar**2 for d in self.draws))

    @property
    def holds(self) -> bool:
        return self.worst <= BARS and abs(self.bias) <= BIAS


def expectations(theorem: GaussianTheorem) -> tuple[Step, ...]:
    """The steps that speak of a mean."""
    return tuple(step for step in theorem.steps if isinstance(step.claim, ExpectationIs))


def agreement(theorem: GaussianTheorem, step: Step, problems: int, seed: int = 0) -> Agreement:
    """Draw one statement on that many problems, each with its own numbers and dimension."""
    return Agreement(step.name, tuple(draw(theorem.inliner, step, seed + i) for i in range(problems)))


def draw(inline: Inliner, step: Step, seed: int = 0, pairs: int = _PAIRS) -> Draw:
    """Draw one statement on one problem.

    Args:
        inline: puts the definitions in.
        step: with an :class:`~derivations.theorems.expectations.ExpectationIs`.
        seed: of the problem: the dimension, the symbols' values and the noise.
        pairs: of noise, z and −z.
    """
    claim = step.claim
    assert isinstance(claim, ExpectationIs)
    where = {key: inline(value) for key, value in claim.where.items()}
    symbols = {key: value for key, value in where.items() if key.is_Symbol}
    sides = [drop_sg(inline(side).xreplace(symbols)) for side in (claim.lhs, claim.rhs)]
    noises = {mean.args[1] for side in sides for mean in side.atoms(Mean)}
    integrands = [_integrand(side) for side in sides]
    generator = torch.Generator().manual_seed(seed)
    dimension = DIMENSIONS[int(torch.randint(len(DIMENSIONS), (), generator=generator))]
    free = set().union(*(side.free_symbols for side in (*sides, *where.values()))) - noises
    values = _values(free, dimension, generator)
    for key, value in where.items():
        if isinstance(key, Norm2):  # the condition's length, in the direction that was drawn
            vector = values[key.args[0].name]
            values[key.args[0].name] = vector * (_evaluate(value, values) / vector.square().sum()).sqrt()
    direction = torch.randn(dimension, generator=generator, dtype=torch.float64)
    if not sides[1].has(Mean) and sides[1] != 0 and kind(sides[1]) == "vector":
        required = _evaluate(sides[1], values)
        direction = direction + dimension**0.5 * required / required.norm()  # where a wrong length shows most
    halves = {z: _noise(z, pairs, dimension, generator) for z in sorted(noises, key=str)}
    totals, size = torch.zeros(pairs, dtype=torch.float64), 0.0
    for sign in (1, -1):
        given = {**values, **{z.name: sign * half for z, half in halves.items()}}
        left, right = (
            _along(side, integrand, given, direction) for side, integrand in zip(sides, integrands, strict=True)
        )
        totals = totals + (left - right).expand(pairs) / 2
        for side, integrand in zip(sides, integrands, strict=True):
            size += float(_along(side, integrand, given, direction.abs(), sizes=True).mean()) / 2
    bar = float(totals.std()) / math.sqrt(pairs) + _ROUNDING * (size + 1e-300)
    if any(side.has(Below) for side in sides):
        # An event that is rare need not have been drawn: Bernstein's inequality for the probability p that is claimed,
        # BARS·√(p(1 − p)/N) + BARS²/(3N).
        p = min(max(float(right.mean()), 0.0), 1.0)
        bar = max(bar, math.sqrt(p * (1 - p) / pairs)) + BARS / (3 * pairs)
    return Draw(step.name, dimension, float(totals.mean()), bar)


def _integrand(side: sp.Expr) -> sp.Expr:
    """What a side is the mean of: it must be linear in its means.

    Raises:
        NotImplementedError: it holds a product or a function of means, whose mean is something else.
    """
    if not side.has(Mean):
        return side
    if isinstance(side, Mean):
        return _integrand(side.args[0])
    if isinstance(side, sp.Add):
        return side.func(*map(_integrand, side.args))
    if isinstance(side, sp.Mul) and sum(arg.has(Mean) for arg in side.args) == 1:
        return side.func(*map(_integrand, side.args))
    raise NotImplementedError(f"{side} is not linear in its means")


_RANGES = {"t": (0.3, 0.7), "C1": (0.3, 0.6), "C2": (0.5, 1.0), "kappa": (0.2, 0.8)}


def _values(symbols: set[sp.Symbol], dimension: int, generator: torch.Generator) -> dict[str, Tensor]:
    """A number or a vector for each symbol, small enough that no exponential's mean rests on rare noise."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64)

    out = {}
    for symbol in sorted(symbols, key=str):
        if isinstance(symbol, VectorSymbol):
            vector = torch.randn(dimension, generator=generator, dtype=torch.float64)
            out[symbol.name] = vector / vector.norm() * uniform(0.2, 0.8)
        elif symbol.name == "D":
            out[symbol.name] = torch.tensor(float(dimension), dtype=torch.float64)
        elif symbol.name in ("clip_low", "clip_high"):  # for a sum over coordinates, or for a mean
            share = dimension if uniform(0, 1) < 0.5 else 1
            out[symbol.name] = uniform(0.05, 0.5) / share
        else:
            out[symbol.name] = uniform(*_RANGES.get(symbol.name, (0.2, 0.8) if symbol.is_positive else (-0.8, 0.8)))
    return out


def _noise(z: sp.Symbol, pairs: int, dimension: int, generator: torch.Generator) -> Tensor:
    shape = (pairs, dimension) if isinstance(z, VectorSymbol) else (pairs,)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _along(
    side: sp.Expr, integrand: sp.Expr, values: dict[str, Tensor], direction: Tensor, sizes: bool = False
) -> Tensor:
    value = _evaluate(integrand, values, sizes)
    return value @ direction if side != 0 and kind(side) == "vector" else value


def _evaluate(expr: sp.Expr, values: dict[str, Tensor], sizes: bool = False) -> Tensor:
    """Scalars have shape () or (pairs,), vectors (D,) or (pairs, D); with ``sizes``, as if nothing could cancel."""
    if expr.is_number:
        return torch.tensor(abs(float(expr)) if sizes else float(expr), dtype=torch.float64)
    if expr.is_Symbol:
        return values[expr.name].abs() if sizes else values[expr.name]
    plain = sizes and not isinstance(expr, (sp.Add, sp.Mul, Dot, Norm2, sp.Pow))  # of functions the argument's value
    args = [_evaluate(arg, values, sizes and not plain) for arg in expr.args]
    if isinstance(expr, (sp.Add, sp.Mul)):
        vectors = [kind(arg) == "vector" for arg in expr.args]
        if any(vectors):  # a scalar for each pair stands beside vectors
            args = [x if is_vector else x[..., None] for x, is_vector in zip(args, vectors, strict=True)]
        out = args[0]
        for x in args[1:]:
            out = out + x if isinstance(expr, sp.Add) else out * x
        return out
    match expr:
        case sp.Pow() if sizes and not (expr.exp.is_Integer and expr.exp > 0):
            return _evaluate(expr, values).abs()
        case sp.Pow():
            return args[0] ** args[1]
        case sp.exp():
            return args[0].exp()
        case sp.log():
            return args[0].log().abs() if sizes else args[0].log()
        case Dot():
            return (args[0] * args[1]).sum(-1)
        case Norm2():
            return args[0].square().sum(-1)
        case Below():
            return (args[0] < args[1]).double()
        case NormalCDF():
            return torch.special.ndtr(args[0])
    raise NotImplementedError(f"no number for {type(expr).__name__} in {expr}")


def main(argv: Sequence[str] | None = None) -> int:
    """Try every theorem; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m gradcheck.theorems.montecarlo", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--problems", type=int, default=1000, metavar="N", help="for each statement (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        if arguments.problems < 2:
            raise InputError(("--problems", str(arguments.problems), "at least 2"))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    failed = 0
    print("| theorem | statements | problems | largest deviation | root mean square | largest bias |\n|" + " --- |" * 6)
    for theorem, results in _all(arguments.problems, arguments.seed):
        draws = [d for r in results for d in r.draws]
        square = sum(d.deviation**2 for d in draws) / len(draws)
        print(
            f"| {theorem.name} | {len(results)} | {arguments.problems:,} | {max(r.worst for r in results):.2f} | "
            f"{math.sqrt(square):.2f} | {max(abs(r.bias) for r in results):.2f} |",
            flush=True,
        )
        for r in results:
            if not r.holds:
                failed += 1
                print(f"FAILED {theorem.name}: {r.step}: deviation {r.worst:.3g}, bias {r.bias:.3g}", file=sys.stderr)
    return 1 if failed else 0


def _all(problems: int, seed: int) -> Iterator[tuple[GaussianTheorem, list[Agreement]]]:
    for theorem in THEOREMS:
        steps = expectations(theorem)
        if steps:
            yield theorem, [agreement(theorem, step, problems, seed) for step in steps]


if __name__ == "__main__":
    sys.exit(main())
