r"""Advantages beside the rewards that they are made of: a centred, scaled copy of them, in their own order.

Within a group A = (R − m)/s with s > 0: so A rises with R along one line.  Which line (the group's mean and standard
deviation, all rewards' …) can be told where whole groups are there; the mini-batch of an update often holds parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradcheck.watching.faults import Checked, Fault
from gradcheck.watching.given import describe, ids_of

__all__ = ["check_advantages", "judge_rollout"]

Numbers = np.ndarray[Any, Any]

_LINE = 1e-3
"""Of an advantage's size: rewards and advantages in float32, and a small ε in the divisor."""

_OF_ALL = "the advantages are normalised over all samples, not within each group"


def judge_rollout(advantage: Any, reward: Any, group: Any, clamp: float | None) -> Checked | str:
    """Judge a whole rollout's advantages, (N,), each group whole; in words what is wrong with what was given, if it is.

    Args:
        group: (N,), ids of any kind; one group by default.
        clamp: the advantage may be clamped to ± this.
    """
    given = {"advantage": advantage, "reward": reward, "group": ids_of(group)}
    absent = [name for name in ("advantage", "reward") if given[name] is None]
    bad = [name for name, x in given.items() if x is not None and not _are_numbers(x)]
    for name in (*bad, *absent):
        return f"{name}: got {describe(given[name])}; wanted numbers of shape (N,)"
    columns = {name: torch.as_tensor(x).detach().to("cpu", torch.float64) for name, x in given.items() if x is not None}
    sizes = {tuple(x.shape) for x in columns.values()}
    if len(sizes) != 1 or columns["reward"].ndim != 1:
        return f"advantages: got shapes {', '.join(map(str, sorted(sizes)))}; wanted one shape (N,) for all"
    return check_advantages(columns["advantage"], columns["reward"], columns.get("group"), whole=True, clamp=clamp)


def _are_numbers(value: Any) -> bool:
    try:
        return bool(torch.as_tensor(value).isfinite().all())
    except (TypeError, ValueError, RuntimeError):
        return False


def check_advantages(
    advantage: Tensor, reward: Tensor, group: Tensor | None, whole: bool, clamp: float | None = None
) -> Checked:
    """Judge advantages, (N,), against rewards, (N,).

    Args:
        group: (N,), ids; one group by default.
        whole: whether every member of each group is there, so that mean and standard deviation can be told.
        clamp: the advantage may be clamped to ± this.
    """
    ids = torch.zeros_like(reward) if group is None else group
    columns = [x.detach().to("cpu", torch.float64).numpy().tobytes() for x in (advantage, reward, ids)]
    return _judged(*columns, whole=whole, clamp=clamp)


@lru_cache(maxsize=4)
def _judged(advantage: bytes, reward: bytes, group: bytes, *, whole: bool, clamp: float | None) -> Checked:
    """The same of columns in float64; a trainer goes through the steps of a rollout with the same ones."""
    a, r, ids = (torch.from_numpy(np.frombuffer(x).copy()) for x in (advantage, reward, group))
    name = "advantages"
    inside = torch.ones_like(a, dtype=torch.bool) if clamp is None else a.abs() < clamp * (1 - 1e-6)
    rises, looked_at = _rises(a, r, ids, inside)
    if not whole and bool(rises.all()):
        return Checked(name) if looked_at else Checked(name, unchecked="no group has two different rewards in a batch")
    rows = [(ids == i).nonzero().flatten() for i in ids.unique()]
    if not bool(rises.all()):
        row = rows[int((~rises).nonzero()[0])]
        fault = _bent(a, r, ids, rows, row[inside[row]])
        if fault is None:
            return Checked(name, unchecked="the advantages rise with the rewards of their group, and not along a line")
        return Checked(name, (fault,))
    if whole and len(rows) > 1 and bool(inside.all()):
        slope, off = _line(r, a)
        means = torch.stack([a[row].mean().abs() for row in rows])
        if slope > 0 and off <= _LINE * float(a.abs().max()) and float(means.max()) > _LINE * float(a.abs().max()):
            return Checked(name, (Fault("advantage-group", _OF_ALL),))
    if whole:
        return _estimator(a, r, rows, inside)
    return Checked(name)


def _rises(a: Tensor, r: Tensor, ids: Tensor, inside: Tensor) -> tuple[Tensor, bool]:
    """Whether each group's advantages are a rising line of its rewards, in the order of ``ids.unique()``; and whether
    any group has two rewards that differ.  A group that has not, rises."""
    unique, every = np.unique(ids.numpy(), return_inverse=True)  # on a few numbers NumPy takes a third of torch's time
    groups, chosen = len(unique), inside.numpy()
    place, x, y = every[chosen], r.numpy()[chosen], a.numpy()[chosen]

    def total(z: Numbers) -> Numbers:
        return np.bincount(place, z, groups)

    def most(z: Numbers) -> Numbers:
        out = np.zeros(groups)
        np.maximum.at(out, place, np.abs(z))
        return out

    with np.errstate(all="ignore"):
        count = np.bincount(place, minlength=groups)
        dx, dy = x - (total(x) / count)[place], y - (total(y) / count)[place]
        differ = most(dx) > 1e-9 * (most(x) + 1)
        slope = total(dx * dy) / total(dx * dx)
        off = most(dy - slope[place] * dx)
        rises = ~differ | ((slope > 0) & (off <= _LINE * most(y)))
    return torch.from_numpy(rises), bool(differ.any())


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope, and the largest distance from the line."""
    dx, dy = x - x.mean(), y - y.mean()
    slope = float((dx * dy).sum() / (dx * dx).sum())
    return slope, float((dy - slope * dx).abs().max())


def _bent(a: Tensor, r: Tensor, ids: Tensor, rows: list[Tensor], row: Tensor) -> Fault | None:
    """What else may be: another sign, another order, other groups; ``None`` for a function of the reward, as ranks."""
    slope, off = _line(r[row], a[row])
    if slope < 0 and off <= _LINE * float(a[row].abs().max()):
        return Fault("advantage-sign", "the advantage falls where the reward rises: its sign is wrong")
    everything = torch.cat(rows)
    whole_slope, whole_off = _line(r[everything], a[everything])
    if len(rows) > 1 and whole_slope > 0 and whole_off <= _LINE * float(a.abs().max()):
        return Fault("advantage-group", _OF_ALL)
    for words, others in _other_groups(ids):
        if _normalised_within(a, r, others):
            return Fault("advantage-group", f"the advantages are normalised within {words}, not within each group")
    if _divided_across(a, r, rows):
        return Fault(
            "advantage-divisor",
            "the group's mean is subtracted, and members of one group are divided by different numbers, those at one "
            "place of every group by the same: the standard deviation is taken over the wrong axis",
        )
    for words, order in _orders(a, r, rows):
        if _fits(a[order], r, rows):
            return Fault("advantage-order", f"the advantages are in another order than the samples: {words}")
    if all(_monotone(a[row], r[row]) for row in rows):
        return None
    return Fault(
        "advantage-order",
        "within a group the advantage does not rise with the reward along one line: they are in another order than the "
        "samples, of other groups, or of another batch",
    )


def _other_groups(ids: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Groups that are made by mistake, as ids: of another size, along another axis, of one process alone."""
    size, place = len(ids), torch.arange(len(ids))
    for m in range(2, size):
        if size % m == 0:
            yield f"blocks of {m} neighbours", place // m
            yield f"groups of one sample in {size // m}", place % (size // m)
    _, own, counts = ids.unique(return_inverse=True, return_counts=True)
    if bool((counts == counts[0]).all()):
        rank = torch.stack([(own[:i] == own[i]).sum() for i in range(size)])  # its place in its group
        for parts in range(2, int(counts[0])):
            if int(counts[0]) % parts == 0:
                yield (
                    f"a part of each group (1/{parts}, as one process has it)",
                    own * parts + rank // (int(counts[0]) // parts),
                )


def _normalised_within(a: Tensor, r: Tensor, ids: Tensor) -> bool:
    """Whether advantages rise with the rewards of these groups, and have the mean 0 in each."""
    rises, looked_at = _rises(a, r, ids, torch.ones_like(ids, dtype=torch.bool))
    groups = len(rises)
    sums = a.new_zeros(groups).index_add_(0, ids.unique(return_inverse=True)[1], a)
    return looked_at and bool(rises.all()) and bool((sums.abs() <= len(a) / groups * _LINE * a.abs().max()).all())


def _monotone(a: Tensor, r: Tensor) -> bool:
    """Whether a larger reward never has a smaller advantage."""
    return not bool(((r[:, None] < r[None]) & (a[:, None] > a[None])).any())


def _divided_across(a: Tensor, r: Tensor, rows: list[Tensor]) -> bool:
    """Whether (R − mean)/A is one positive number for each place in a group, the same in every group."""
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        return False
    divisors = torch.stack([(r[row] - r[row].mean()) / a[row] for row in rows])
    middle = divisors.mean(0)
    return bool((divisors > 0).all()) and bool(((divisors - middle).abs() <= 1e-2 * middle).all())


def _orders(a: Tensor, r: Tensor, rows: list[Tensor]) -> list[tuple[str, Tensor]]:
    size = len(a)
    out = [(f"they are shifted by {k}", torch.arange(size).roll(-k)) for k in range(1, min(size, 65))]
    out.append(("they are reversed", torch.arange(size).flip(0)))
    for parts in range(2, size):
        if size % parts == 0:
            transposed = torch.arange(size).reshape(parts, size // parts).T.flatten()
            out.append((f"{parts} parts are interleaved: gathered by rank, read by sample", transposed))
    sorted_order = torch.empty(size, dtype=torch.int64)
    sorted_order[r.argsort()] = a.argsort()
    out.append(("sorted by size they fit", sorted_order))
    return out


def _fits(a: Tensor, r: Tensor, rows: list[Tensor]) -> bool:
    for row in rows:
        if len(row) < 2 or float(r[row].max() - r[row].min()) == 0:
            continue
        slope, off = _line(r[row], a[row])
        if slope <= 0 or off > _LINE * float(a[row].abs().max()):
            return False
    return True


def _estimator(a: Tensor, r: Tensor, rows: list[Tensor], inside: Tensor) -> Checked:
    """Mean and divisor: of the group or of all, biased or not, with some ε; or one constant for all groups."""
    name = "advantages"
    for row in rows:
        if bool(inside[row].all()) and len(row) > 1:
            size = float(a[row].abs().max())
            if abs(float(a[row].mean())) > _LINE * max(size, 1e-12) + 1e-6:
                sentence = (
                    "the advantages of a group do not have the mean 0: its mean reward is not what was subtracted"
                )
                return Checked(name, (Fault("advantage-mean", sentence),))
    centred, own, all_of = torch.zeros_like(a), torch.ones_like(a), torch.ones_like(a)
    for row in rows:
        centred[row] = r[row] - r[row].mean()
    c, seen = centred[inside], a[inside]

    def divided_by(spread: Tensor) -> bool:
        return bool(((c / spread[inside]).nan_to_num() - seen).abs().le(_LINE * (1 + seen.abs())).all())

    for correction in (0, 1):
        for row in rows:
            if len(row) > 1:
                own[row], all_of[row] = r[row].std(correction=correction), r.std(correction=correction)
        for spread in (own, all_of):
            if any(divided_by(spread + eps) for eps in (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3)):
                return Checked(name)
            if divided_by(spread**2):
                sentence = "the advantages are divided by the variance, not the standard deviation"
                return Checked(name, (Fault("advantage-variance", sentence),))
        for k in range(1, len(rows)):
            other = torch.ones_like(a)
            for i, row in enumerate(rows):
                other[row] = own[rows[(i + k) % len(rows)][0]]
            if any(divided_by(other + eps) for eps in (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3)):
                sentence = "the advantages of a group are divided by another group's standard deviation"
                return Checked(name, (Fault("advantage-divisor", sentence),))
    factor = (seen * c).sum() / (c * c).sum()  # centred alone, as Dr. GRPO; against the mean of the others, as RLOO
    if divided_by(torch.ones_like(a) / factor):
        return Checked(name)
    return Checked(name, unchecked="the advantages are centred, and divided by something else than standard deviations")
