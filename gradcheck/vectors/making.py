r"""A recipe's case: drawn until it is what the recipe says, in every precision, and a mistake would show in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import divergence, quantity, ratio
from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate
from gradcheck.devices import DtypeName
from gradcheck.errors import GradcheckError
from gradcheck.problems.building import Spec, complete, draw_given
from gradcheck.problems.regimes import PolicyRegime
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import branch, value_scale
from gradcheck.rounding.error_scale import error_scale
from gradcheck.vectors.recipes import CLIP, GROUPS, RECIPES, Recipe

__all__ = ["DTYPES", "Expected", "applies", "expected", "make", "recipes_for"]

DTYPES: dict[DtypeName, torch.dtype] = {"float64": torch.float64, "float32": torch.float32}
"""The precisions that vectors are written in."""

_ATTEMPTS = 500
_VISIBLE = 100.0
"""How far above the bound a demanded gradient must be at its largest component: a mistake of a percent is refused."""

_SIGNALS = ("advantage", "reward_prob", "reward")
_EXTREME = {"advantage": (25.0, -40.0), "reward_prob": (1.0, 0.0), "reward": (6.0, -6.0)}
_ZERO = {"advantage": 0.0, "reward_prob": 0.5}

Given = dict[str, Tensor | float]


@dataclass(frozen=True)
class Expected:
    r"""What a case demands, in float64; shapes (B, \*latent) and (B,).

    Attributes:
        gradient: of the summed per-sample loss in ``v_theta``.
        gradient_scale: e; where a sample is undecided the larger one of both branches.
        loss, loss_scale: the per-sample loss and its e.
        weight, target: of the equivalent squared distance.
        undecided: samples whose clip branch the precision does not decide.
        other_gradient: the gradient on the clip's other branch; the same where there is no clip.
    """

    gradient: Tensor
    gradient_scale: Tensor
    loss: Tensor
    loss_scale: Tensor
    weight: Tensor
    target: Tensor
    undecided: Tensor
    other_gradient: Tensor


def recipes_for(derivation: Derivation) -> tuple[Recipe, ...]:
    """The recipes that make sense for a loss."""
    return tuple(recipe for recipe in RECIPES if applies(recipe, derivation))


def applies(recipe: Recipe, derivation: Derivation) -> bool:
    """Whether the loss has what the recipe is about."""
    has = set(derivation.given)
    if _signal(derivation):
        has.add("signal")
    if _signal(derivation) in _ZERO:
        has.add("centred")
    if Piece.RATIO in derivation.pieces:
        has.add("clip")
    return has.issuperset(recipe.needs)


def _signal(derivation: Derivation) -> str | None:
    return next((name for name in _SIGNALS if name in derivation.given), None)


def expected(derivation: Derivation, case: Case) -> Expected:
    """Evaluate what a case demands from its given quantities."""
    shape = case.v_theta.shape
    (raw, gradient, weight, target), (other_raw, other_gradient, *_) = (branch(derivation, o) for o in (False, True))
    wanted = (gradient, other_gradient, derivation.loss, weight, target)
    own, other, loss, w, point = evaluate(derivation, case, *wanted, dtype=torch.float64)
    scales, undecided = error_scale(derivation, case, raw, other_raw)
    loss_scale = value_scale(derivation, case, derivation.loss, case.output.dtype)
    own_scale, other_scale = (x.expand(shape) for x in scales)
    column = undecided.reshape(-1).expand(shape[0]).reshape(-1, *(1,) * (len(shape) - 1))

    def rows(x: Tensor) -> Tensor:
        return x.reshape(-1).expand(shape[0])

    return Expected(
        gradient=own.expand(shape),
        gradient_scale=torch.where(column, torch.maximum(own_scale, other_scale), own_scale),
        loss=rows(loss),
        loss_scale=rows(loss_scale),
        weight=rows(w),
        target=point.expand(shape),
        undecided=column.reshape(-1),
        other_gradient=other.expand(shape),
    )


def make(derivation: Derivation, recipe: Recipe, seed: int = 0) -> dict[str, tuple[Case, Expected]]:
    """One case in every precision, the same for the same seed.

    Raises:
        GradcheckError: no draw is what the recipe says.
    """
    for given in _draws(derivation, recipe, seed):
        made: dict[str, tuple[Case, Expected]] = {}
        for name, dtype in reversed(DTYPES.items()):  # the coarser one refuses more
            case = complete(derivation, {n: x.to(dtype) if isinstance(x, Tensor) else x for n, x in given.items()})
            if not _is_placed(derivation, recipe, case):
                break
            e = expected(derivation, case)
            if not _is_sharp(recipe, e, name):
                break
            made[name] = case, e
        else:
            return made
    raise GradcheckError(f"no problem of {derivation.label} is a case {recipe.name!r} in {_ATTEMPTS} draws")


# ---------------------------------------------------------------------------------------------------- drawing


def _draws(derivation: Derivation, recipe: Recipe, seed: int) -> Iterator[Given]:
    for attempt in range(_ATTEMPTS):
        text = f"{seed}/{derivation.label}/{recipe.name}/{attempt}"
        own = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest())
        given = _drawn(derivation, recipe, own)
        yield _clip_at_ratio(derivation, given) if recipe.at_edge else given


def _drawn(derivation: Derivation, recipe: Recipe, seed: int) -> Given:
    policy: PolicyRegime = recipe.policy if Piece.RATIO in derivation.pieces or recipe.policy == "on-policy" else "off"

    def draw(batch: int, fixed: Given) -> Given:
        spec = Spec(batch, GROUPS[recipe.group], seed, policy, "typical", recipe.time, recipe.noise)
        return draw_given(derivation, spec, derivation.given, fixed)

    fixed: Given = {name: value for name, value in CLIP.items() if name in derivation.given}
    if not recipe.mixed and recipe.batch > 1:
        one = draw(1, fixed)
        fixed |= {name: _number(one[name]).repeat(recipe.batch) for name in ("t", "dt") if name in one}
    given = draw(recipe.batch, fixed)
    name = _signal(derivation)
    if name is None:
        return given
    signal = _number(given[name])
    if recipe.signal == "extreme":
        return {**given, name: signal.new_tensor(_EXTREME[name])}
    if recipe.signal == "zero":
        return {**given, name: torch.full_like(signal, _ZERO[name])}
    opposite = 1 - signal if name == "reward_prob" else -signal
    signal, opposite = torch.maximum(signal, opposite), torch.minimum(signal, opposite)
    if recipe.signal == "pair":
        given = {n: torch.cat([x, x]) if isinstance(x, Tensor) else x for n, x in given.items()}
        return {**given, name: torch.cat([signal, opposite])}
    return {**given, name: signal}


def _clip_at_ratio(derivation: Derivation, given: Given) -> Given:
    """Move the clip to where the ratio is; on float32's numbers, so that the edge is the same in both precisions."""
    coarse: Given = {n: x.float().double() if isinstance(x, Tensor) else x for n, x in given.items()}
    if Piece.DIVERGENCE in derivation.pieces:
        (apart,) = evaluate(derivation, complete(derivation, coarse), divergence, dtype=torch.float64)
        return {**coarse, "divergence_max": float(apart.flatten()[0])}
    (at,) = evaluate(derivation, complete(derivation, coarse), ratio, dtype=torch.float64)
    high = float(at.flatten()[0]) - 1
    return {**coarse, "clip_high": high} if high > 0 else coarse


def _number(value: Tensor | float) -> Tensor:
    assert isinstance(value, Tensor)
    return value


# ---------------------------------------------------------------------------------------------------- accepting


def _is_placed(derivation: Derivation, recipe: Recipe, case: Case) -> bool:
    """Whether rounding left every number in its domain, and the ratio lies where the recipe wants it."""
    if not all(_in_domain(name, getattr(case, name)) for name in derivation.given):
        return False
    if Piece.RATIO not in derivation.pieces:
        return True
    (at,) = evaluate(derivation, case, ratio, dtype=torch.float64)
    if Piece.DIVERGENCE in derivation.pieces:
        beyond = evaluate(derivation, case, divergence, dtype=torch.float64)[0] > case.divergence_max
    else:
        beyond = (at > 1 + case.clip_high) | (at < 1 - case.clip_low)
    if not recipe.at_edge and bool(beyond.any() if recipe.policy != "outside" else not beyond.all()):
        return False
    return {"high": bool((at > 1).all()), "low": bool((at < 1).all()), "": True}[recipe.side]


def _is_sharp(recipe: Recipe, e: Expected, dtype: DtypeName) -> bool:
    """Whether the branch is decided (or, at the edge, is not) and every mistake of a percent would be refused."""
    if not all(bool(x.isfinite().all()) for x in (e.gradient, e.loss, e.weight, e.target)):
        return False
    if bool(e.undecided.any()) != recipe.at_edge:  # a divergence leaves only the sign undecided that would go further
        return False
    if dtype not in recipe.seen or recipe.at_edge:
        return True
    at_stake = e.gradient - e.other_gradient if "clip" in recipe.needs else e.gradient
    vanishes = (e.gradient == 0).flatten(1).all(1) & (recipe.signal == "zero")
    return bool((_rows_shown(at_stake, e, dtype) | vanishes).all())


def _rows_shown(difference: Tensor, e: Expected, dtype: DtypeName) -> Tensor:
    bound = THRESHOLD * unit_roundoff(DTYPES[dtype]) * e.gradient_scale
    return (difference.abs() > _VISIBLE * bound).flatten(1).any(1)


def _in_domain(name: str, value: Tensor | float) -> bool:
    """Rounding must not have moved a sample's number to the end of its open interval, a time to 1 for instance."""
    row = quantity(name)
    if row.axes != "sample":
        return True
    x, low, high = _number(value), float(row.domain.inf), float(row.domain.sup)
    above = x > low if row.domain.left_open else x >= low
    below = x < high if row.domain.right_open else x <= high
    return bool((above & below).all())
