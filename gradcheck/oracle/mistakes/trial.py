r"""The gradient that a mistake predicts on a case: autograd of the wrong loss.

A mistake changes a few places of a loss, and everything else is what it was: so what no changed place enters is
computed once on each problem, and shared by all mistakes that are tried on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import Total, Unless
from gradcheck.case import Case
from gradcheck.oracle.mistakes.functions import (
    BatchSize,
    Given,
    GridStep,
    GridTime,
    LatentSize,
    Others,
    Right,
    RowNeighbour,
)
from gradcheck.oracle.mistakes.places import Stated, symbols_of
from gradcheck.oracle.mistakes.rules import CLIPPED, COMPARED, RULES, total
from gradcheck.rounding.bounds import THRESHOLD, Analysis, unit_roundoff

__all__ = ["Prediction", "Trial"]


@dataclass(frozen=True)
class Prediction:
    """What a mistake predicts on a problem.

    Attributes:
        gradient: of the wrong loss, summed over the batch, (B, \\*latent).
        undecided: the samples whose branch rounding does not decide, (B,).
        loose: how far rounding may put each sample's gradient off, relative to its size, (B,).
        branches: computes the gradients of the other branches, where rounding does not decide a comparison in it.
    """

    gradient: Tensor
    undecided: Tensor
    loose: Tensor
    branches: Callable[[], tuple[Tensor, ...]] = tuple

    @cached_property
    def others(self) -> tuple[Tensor, ...]:
        """The gradients of the other branches: computed when they are asked for, since most mistakes are out before."""
        return self.branches()

    def times(self, factor: float) -> Prediction:
        """The same under a constant factor."""
        return replace(self, gradient=factor * self.gradient, branches=lambda: tuple(factor * x for x in self.others))


class Trial:
    """One problem, on which mistakes in a loss are tried.

    Args:
        case: the problem.
        loss: what is mistaken.
        dtype: the precision that the implementation works in, which decides what is undecided.
        unit: how many neighbours belong together, as a pair or a group; 1 where every sample is judged alone.
    """

    def __init__(self, case: Case, loss: Stated, dtype: torch.dtype, unit: int = 1) -> None:
        values = {name: x.detach() for name, x in case.broadcast(torch.float64).items()}
        self.output = values[case.output_name].clone().requires_grad_()
        values[case.output_name] = self.output
        size = torch.tensor(float(self.output[0].numel()), dtype=torch.float64, device=self.output.device)
        values.setdefault("D", size)
        self.stated, self.coarse = loss, dtype != torch.float64
        latent = tuple(self.output.shape[1:])
        around = _Around(latent, unit, *(getattr(case, x) if x in case.names else None for x in _GRID))
        self.right = _Values(values, loss, self._open_ratios(values, dtype), around)

    def predict(self, edits: Mapping[sp.Symbol, sp.Expr]) -> Prediction:
        """The gradient with some places changed."""
        gradient, undecided, loose = self._gradient(edits, None)
        if not bool(undecided.any()):
            return Prediction(gradient, undecided, loose)

        def branches() -> tuple[Tensor, ...]:
            clipped, free = (self._gradient(edits, branch)[0] for branch in (0.0, 1.0))
            # a ratio that is rounded onto the edge ties, and autograd halves the gradient of a tie
            return clipped, free, (clipped + free) / 2

        return Prediction(gradient, undecided, loose, branches)

    @property
    def loose(self) -> Tensor:
        """How far rounding may put the right gradient off, relative to each sample's size, (B,)."""
        return self.right.open_ratios.reshape(-1).expand(len(self.output))

    @torch.enable_grad()  # a watched step is explained inside its backward pass, where gradients are off
    def _gradient(self, edits: Mapping[sp.Symbol, sp.Expr], branch: float | None) -> tuple[Tensor, Tensor, Tensor]:
        v, run = self.output, _Edited(self.right, edits, branch)
        loss = run(self.stated.loss)
        undecided = torch.zeros(len(v), dtype=torch.bool, device=v.device)
        for kink in (*run.kinks.values(), *self.right.kinks.values()):
            undecided = undecided | kink.reshape(-1)
        loose = self._loose(run)
        if not loss.requires_grad:
            return torch.zeros_like(v), undecided, loose
        loss = loss.expand(v.shape[0], *loss.shape[1:]) if loss.ndim else loss.expand(v.shape[0])
        (gradient,) = torch.autograd.grad(loss.sum(), v, retain_graph=True, allow_unused=True, materialize_grads=True)
        return gradient, undecided, loose

    def _loose(self, run: _Edited) -> Tensor:
        """A ratio is off by what its log-probabilities are; where those are larger than the right ones, so is that."""
        off = self.right.open_ratios
        if self.coarse and n.log_prob_theta in self.stated.table:
            # with a graph, since what is evaluated here is remembered for other predictions
            own, right = (x(n.log_prob_theta).detach().abs() for x in (run, self.right))
            off = off * (own / right.clamp(min=1e-300)).nan_to_num(1.0, 1e6, 1e6).clamp(1.0, 1e6)
        return off.reshape(-1).expand(len(self.output))

    def _open_ratios(self, values: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """How far rounding may put a ratio off, relative to its size, per sample: that of the right loss's ratio.

        A wrong loss's ratio is a sum of the same size; to analyse the rounding of each would cost more than it tells.
        """
        size = 64 * unit_roundoff(dtype) * torch.ones(len(self.output), *(1,) * (self.output.ndim - 1)).double()
        size = size.to(self.output.device)
        if n.ratio not in self.stated.table or dtype == torch.float64:
            return size
        run = Analysis({name: x.detach() for name, x in values.items()}, dtype)
        ratio = self.stated.value(n.ratio)
        with torch.no_grad():
            value, error = run(ratio)
        off = (THRESHOLD * unit_roundoff(dtype) * error / value.abs().clamp(min=1e-300)).expand(size.shape)
        return torch.maximum(off.nan_to_num(1.0, 1.0, 1.0), size)


_GRID = ("sigmas", "step_index")


@dataclass(frozen=True)
class _Around:
    """What a problem has besides its quantities: the shape of a latent, its units, the sampler's grid."""

    latent: tuple[int, ...]
    unit: int
    sigmas: Tensor | None
    step_index: Tensor | None

    def time(self, own: Tensor, by: int) -> Tensor:
        """The grid's time so many places after each sample's own; at its ends that of the last whole step."""
        if self.sigmas is None or self.step_index is None:
            return torch.full_like(own, torch.nan)
        at = (self.step_index + by).clamp(0, len(self.sigmas) - 2)
        return self.sigmas.to(own)[at].reshape(own.shape)

    def step(self, own: Tensor, by: int) -> Tensor:
        """The length of the step that begins there."""
        if self.sigmas is None or self.step_index is None:
            return torch.full_like(own, torch.nan)
        at = (self.step_index + by).clamp(0, len(self.sigmas) - 2)
        sigmas = self.sigmas.to(own)
        return (sigmas[at] - sigmas[at + 1]).reshape(own.shape)

    def neighbour(self, x: Tensor, by: int) -> Tensor:
        """Another member's of each sample's unit, so many places away."""
        if self.unit == 1 or x.ndim == 0 or len(x) % self.unit:
            return torch.full_like(x, torch.nan)
        return x.reshape(-1, self.unit, *x.shape[1:]).roll(by, 1).reshape(x.shape)

    def others(self, x: Tensor) -> Tensor:
        """The sum over the rest of each sample's unit."""
        if self.unit == 1 or x.ndim == 0 or len(x) % self.unit:
            return torch.full_like(x, torch.nan)
        units = x.reshape(-1, self.unit, *x.shape[1:])
        return (units.sum(1, keepdim=True) - units).reshape(x.shape)


class _Node:
    """A formula as it was read, once for all the trials that it is evaluated in: how, and of what.

    Some ten thousand predictions are made to explain one failure, and each evaluates a few hundred formulas: to ask
    SymPy of each anew what it is, and whether it equals one that is remembered, takes longer than the tensors do.
    """

    __slots__ = ("args", "compared", "expr", "how", "number", "symbols", "terms")

    def __init__(self, expr: sp.Expr) -> None:
        self.expr, self.symbols, self.compared = expr, symbols_of(expr), expr.has(*COMPARED)
        self.how = next(how for is_so, how in _WAYS if is_so(expr))
        self.args: tuple[_Node, ...] = () if self.how in (_symbol, _number) else tuple(map(_node, expr.args))
        self.number = float(expr) if self.how is _number else math.nan
        self.terms: tuple[tuple[_Node, ...], ...] = ()
        if isinstance(expr, Unless):
            self.terms = tuple(tuple(map(_node, sp.Add.make_args(sp.expand(arg)))) for arg in expr.args)


@lru_cache(maxsize=20_000)
def _node(expr: sp.Expr) -> _Node:
    return _Node(expr)


class _Values:
    """Evaluates losses in float64, differentiably, and remembers which samples a comparison leaves undecided."""

    def __init__(self, values: Mapping[str, Tensor], loss: Stated, open_ratios: Tensor, around: _Around) -> None:
        self.values, self.stated, self.table, self.open_ratios = values, loss, loss.table, open_ratios
        self.around = around
        self.one = torch.ones((), dtype=torch.float64, device=open_ratios.device)
        self.memo: dict[_Node, Tensor] = {}
        self.kinks: dict[_Node, Tensor] = {}
        self.branch: float | None = None

    def __call__(self, expr: sp.Expr) -> Tensor:
        return self.of(_node(expr))

    def of(self, node: _Node) -> Tensor:
        known = self.memo.get(node)
        if known is None:
            known = self.memo[node] = node.how(self, node)
        return known

    def of_samples(self, near: Tensor) -> Tensor:
        """In which samples something is near, be it in a single coordinate; (B, 1, …, 1)."""
        if near.ndim > 1:
            near = near.flatten(1).any(1).reshape(-1, *(1,) * (self.open_ratios.ndim - 1))
        return near.expand(self.open_ratios.shape)

    def of_the_right(self, node: _Node) -> Tensor:
        return self.of(node)


class _Edited(_Values):
    """The same with some places changed; what they do not enter is the right loss's own."""

    def __init__(self, right: _Values, edits: Mapping[sp.Symbol, sp.Expr], branch: float | None) -> None:
        super().__init__(right.values, right.stated, right.open_ratios, right.around)
        self.table = {**right.table, **edits}
        self.right, self.branch = right, branch
        changed = frozenset(edits) if branch is None else frozenset(edits) | _compared(right.table)
        self.affected = right.stated.reach(changed)

    def of(self, node: _Node) -> Tensor:
        known = self.memo.get(node)
        if known is None:
            shared = self.affected.isdisjoint(node.symbols) and (self.branch is None or not node.compared)
            known = self.memo[node] = self.right.of(node) if shared else node.how(self, node)
        return known

    def of_the_right(self, node: _Node) -> Tensor:
        return self.right.of(node)


def _symbol(run: _Values, node: _Node) -> Tensor:
    formula = run.table.get(node.expr)
    return run.values[node.expr.name] if formula is None else run(formula)


def _total_of(run: _Values, node: _Node) -> Tensor:
    each = run.of(node.args[0])
    # a number is the same in every coordinate
    return total(each) if each.ndim and each[0].numel() > 1 else each * run.values["D"]


def _number(run: _Values, node: _Node) -> Tensor:
    return run.one * node.number


def _power_of(run: _Values, node: _Node) -> Tensor:
    base, exponent = node.args
    value = run.of(base)
    return RULES[sp.Pow](value, exponent.number if exponent.how is _number else run.of(exponent))


def _mask(run: _Values, node: _Node) -> Tensor:
    """0 where every condition is positive; undecided near where one of them changes its sign."""
    conditions = [run.of(arg) for arg in node.args]
    off = torch.ones_like(conditions[0], dtype=torch.bool)
    near = torch.zeros_like(off)
    for terms, x in zip(node.terms, conditions, strict=True):
        off = off & (x > 0)
        size = sum((run.of(term).detach().abs() for term in terms), 0.0)
        near = near | (x.detach().abs() <= 4 * run.open_ratios * size)
    value = (~off).to(torch.float64)
    if bool(near.any()):
        run.kinks[node] = run.of_samples(near)
        if run.branch is not None:
            value = torch.where(near, run.branch, value)
    return value


def _clipped(run: _Values, node: _Node) -> Tensor:
    """A surrogate: where rounding leaves it open whether it is clipped, on the branch that is asked for."""
    a, r, low, high, *more = found = [run.of(arg) for arg in node.args]
    value = RULES[type(node.expr)](*found)
    with torch.no_grad():
        off = run.open_ratios * r.abs()
        near = ((r - 1 - high).abs() <= off) | ((r - 1 + low).abs() <= off)
        for edge in more:
            near = near | ((r - edge).abs() <= off)
    if bool(near.any()):
        run.kinks[node] = run.of_samples(near)
        if run.branch is not None:
            value = torch.where(near, -a * (r if run.branch else r.detach()), value)
    return value


def _by_rule(run: _Values, node: _Node) -> Tensor:
    return RULES[type(node.expr)](*[run.of(arg) for arg in node.args])


def _of(*kinds: type) -> Callable[[sp.Expr], bool]:
    return lambda expr: isinstance(expr, kinds)


def _compared(table: Mapping[sp.Symbol, sp.Expr]) -> frozenset[sp.Symbol]:
    """The symbols in whose formulas a comparison stands."""
    return frozenset(s for s, e in table.items() if e.has(*COMPARED))


_WAYS: tuple[tuple[Callable[[sp.Expr], bool], Callable[[_Values, _Node], Tensor]], ...] = (
    (lambda expr: expr.is_Symbol, _symbol),
    (_of(Total), _total_of),
    (lambda expr: expr.is_number and expr.is_comparable, _number),  # another sample's 1 is a number to SymPy too
    (_of(LatentSize), lambda run, node: run.one * run.around.latent[int(node.expr.args[1])]),
    (_of(BatchSize), lambda run, node: run.one * len(run.open_ratios)),  # also of a number that is the whole batch's
    (_of(Right), lambda run, node: run.of_the_right(node.args[0])),
    (_of(GridStep), lambda run, node: run.around.step(run.of(node.args[0]), int(node.expr.args[1]))),
    (_of(GridTime), lambda run, node: run.around.time(run.of(node.args[0]), int(node.expr.args[1]))),
    (_of(RowNeighbour), lambda run, node: run.around.neighbour(run.of(node.args[0]), int(node.expr.args[1]))),
    (_of(Others), lambda run, node: run.around.others(run.of(node.args[0]))),
    (_of(Given), lambda run, node: run.values[node.expr.args[0].name]),
    (_of(Unless), _mask),
    (_of(*CLIPPED), _clipped),
    (lambda expr: expr.is_Pow, _power_of),
    (lambda expr: True, _by_rule),
)
"""What a formula is → how it is evaluated; the first that it is."""
