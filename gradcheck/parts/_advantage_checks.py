"""The obligations of an advantage estimator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gradcheck.devices import dtype_name
from gradcheck.judging.check import Check, Wrong
from gradcheck.judging.results import Diagnosis, Outcome
from gradcheck.parts._advantage_subject import AdvantageConvention, Subject
from gradcheck.parts._calls import CHANGES, compared, half_precision, repeated
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import Comparison, compare

__all__ = ["CHECKS", "NEGLIGIBLE"]

NEGLIGIBLE = 0.01
"""What the advantage of a group of equal rewards may be: nothing beside a typical advantage, whose size is 1."""


def _compare(subject: Subject, rewards: Tensor, ids: Tensor) -> Comparison:
    value, scale = subject.required(rewards, ids)
    return compare(subject.call(rewards, ids), value, scale, subject.dtype)


def check_values(subject: Subject) -> Outcome:
    cases = [subject.equal_groups(seed, outlier=seed == 3, narrow=seed == 2) for seed in range(4)]
    cases += subject.rare_groups()
    return compared(_compare(subject, *case) for case in cases)


def check_zero_mean(subject: Subject) -> Outcome:
    def each(seed: int) -> Comparison:
        rewards, ids = subject.equal_groups(seed)
        observed = subject.call(rewards, ids)
        _, scale = subject.required(rewards, ids)
        means = torch.stack([observed[ids == i].mean() for i in set(ids.tolist())])
        scales = torch.stack([scale[ids == i].mean() for i in set(ids.tolist())])
        return compare(means, torch.zeros_like(means), scales, subject.dtype)

    return compared(each(seed) for seed in range(3))


def check_shift(subject: Subject) -> Outcome:
    def each(seed: int) -> Comparison:
        rewards, ids = subject.equal_groups(seed)
        moved = rewards + 8.0
        scale = subject.required(rewards, ids)[1] + subject.required(moved, ids)[1]
        scale = scale * 2  # rewards + 8 is rounded once more, and is up to that much larger
        return compare(subject.call(moved, ids), subject.call(rewards, ids), scale, subject.dtype)

    return compared(each(seed) for seed in range(3))


def check_scale(subject: Subject) -> Outcome:
    """16 R has the same advantages, but for ε's share of the divisor; without a division they are 16 times as large."""

    def each(seed: int) -> Comparison:
        rewards, ids = subject.equal_groups(seed)
        if subject.convention.then != "nothing":  # its divisor is that of no reward
            return _compare(subject, 16 * rewards, ids)
        plain, grown = subject.call(rewards, ids), subject.call(16 * rewards, ids)
        factor = 16 * subject.divisor(rewards, ids) / subject.divisor(16 * rewards, ids)
        wanted = subject.clamped(plain * factor)
        scale = factor * subject.required(rewards, ids)[1] + subject.required(16 * rewards, ids)[1] + 4 * wanted.abs()
        return compare(grown, wanted, scale, subject.dtype)

    return compared(each(seed) for seed in range(3))


def check_equal_rewards(subject: Subject) -> Outcome:
    """Advantages of about 0; where the declared ε is itself too small for that, those that it declares, and a note."""
    hazard, note, count = 0.0, "", 0
    ids = torch.arange(5).repeat_interleave(6)
    for value in (0.1, 0.7, 1.0, 3.3):
        for dtype in dict.fromkeys((subject.dtype, torch.float32)):
            base = torch.full((30,), value, dtype=dtype)
            last = torch.tensor([0.0, 1.0, 0.0, -1.0, 1.0, 0.0], dtype=dtype).repeat(5) * torch.finfo(dtype).eps * value
            for what, rewards in (("equal", base), ("equal up to rounding", base + last)):
                count += 1
                found = subject.call(rewards, ids)
                name = dtype_name(dtype)
                where = f"a group whose {name} rewards are all {value} ({what})"
                if not bool(found.isfinite().all()):
                    raise Wrong(f"{where} gets an advantage that is not finite")
                worst = float(found.abs().max())
                if bool((found.abs() > _allowed(subject, rewards, ids)).any()):
                    raise Wrong(f"{where} gets an advantage of {worst:.3g}; at most {NEGLIGIBLE} is required")
                if worst > max(NEGLIGIBLE, hazard):
                    hazard, note = worst, f"{where} gets an advantage of {worst:.3g}"
    if note:
        note = f"hazard eps-below-rounding: {note}; {_cure(subject.convention)}"
    return Outcome("passed", count, note=note)


def _allowed(subject: Subject, rewards: Tensor, ids: Tensor) -> Tensor:
    """How large the advantages of equal rewards may be, (N,)."""
    least = torch.full(rewards.shape, NEGLIGIBLE, dtype=torch.float64)
    if not _below_rounding(subject.convention, rewards):
        return least
    value, scale = subject.required(rewards, ids)
    declared = value.abs() + THRESHOLD * unit_roundoff(rewards.dtype) * scale
    return torch.maximum(least, torch.where(declared.isfinite(), declared, torch.inf))


def _below_rounding(convention: AdvantageConvention, rewards: Tensor) -> bool:
    """Whether two units of the rewards' last place are not negligible beside ε."""
    last = 2 * torch.finfo(rewards.dtype).eps * float(rewards.abs().max())
    least = math.sqrt(convention.eps) if convention.eps_at == "root" else convention.eps
    if convention.then == "batch":  # which divides by ε once more what has been divided by it
        least = least * least
    return (convention.std != "none" or convention.then == "batch") and least * NEGLIGIBLE < last


def _cure(convention: AdvantageConvention) -> str:
    if convention.then == "batch":
        return (
            "rounding noise is standardised once more, to size 1: give 0 where the standard deviation of all "
            "advantages is within rounding of 0"
        )
    return (
        f"ε = {convention.eps:g} is smaller than the rewards' rounding error, which is divided by its own size: use "
        "ε = 1e-4, or give 0 where the standard deviation is within rounding of 0"
    )


_ZERO_OVER_ZERO = Diagnosis("zero-over-zero", "0/0: nothing keeps the divisor from being 0 where all rewards are equal")


def _of_ones(subject: Subject) -> Tensor:
    """What rewards of 1 get, whose mean is exact and whose standard deviation is 0."""
    return subject.call(torch.ones(12, dtype=subject.dtype), torch.arange(2).repeat_interleave(6))


def equal_rewards_cause(subject: Subject) -> Diagnosis | None:
    found = _of_ones(subject)
    if not bool(found.isfinite().all()):
        return _ZERO_OVER_ZERO
    if float(found.abs().max()) > NEGLIGIBLE:
        return None  # without any rounding noise
    return Diagnosis("eps-below-rounding", "rounding noise is divided by its own size: the ε in use is too small")


def check_permutation(subject: Subject) -> Outcome:
    def each(seed: int) -> Comparison:
        rewards, ids = subject.equal_groups(seed)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        _, scale = subject.required(rewards, ids)
        return compare(
            subject.call(rewards[order], ids[order]), subject.call(rewards, ids)[order], 2 * scale[order], subject.dtype
        )

    return compared(each(seed) for seed in range(3))


def check_group_sizes(subject: Subject) -> Outcome:
    """Ids up to 2³² + 40, some of which are one modulo 1,000, or as 32 bits."""
    names = (40, 3, 1_003, 2**32 + 40)
    equal = subject.convention.layout == "equal"
    sizes = ((2, 2, 2, 2), (5, 5, 5, 5), (12, 12, 12, 12)) if equal else ((2, 7, 3, 12),) * 3

    def each(seed: int) -> Comparison:
        ids = torch.cat([torch.full((size,), name) for size, name in zip(sizes[seed], names, strict=True)])
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(ids), generator=generator) if seed else torch.arange(len(ids))
        rewards = (subject.rewards(len(ids), seed) + 0.01 * ids.clamp(max=50)).to(subject.dtype)
        return _compare(subject, rewards[order], ids[order])

    return compared(each(seed) for seed in range(3))


def _ordinary_values(subject: Subject) -> bool:
    """Whether small groups of one size that stand one by one have the declared advantages: else what is wrong with
    others is nothing of their own."""
    return all(_compare(subject, *subject.equal_groups(seed)).holds for seed in range(2))


def _sizes_cause(subject: Subject) -> Diagnosis | None:
    """Whether it is right for groups of one size, wherever their members stand; of other values nothing is said."""
    if not _ordinary_values(subject):
        return None
    equal = replace(subject, convention=replace(subject.convention, layout="equal"))
    if subject.convention.layout == "any" and check_group_sizes(equal).status == "passed":
        cause = "right for groups of one size, and wrong, or refused, where they differ in size"
        return Diagnosis("equal-groups", cause, "layout='equal'")
    return order_cause(subject)


def _sorted_by_group(subject: Subject) -> bool:
    """Whether a mixed batch gets what it gets when it is sorted by group, in that order."""
    rewards, ids = subject.equal_groups()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    rewards, ids = rewards[order], ids[order]
    by_group = ids.argsort(stable=True)
    return torch.equal(subject.call(rewards, ids), subject.call(rewards[by_group], ids[by_group]))


def order_cause(subject: Subject) -> Diagnosis:
    return _SORTED if _sorted_by_group(subject) else _PLACE


def _alone(subject: Subject) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches with groups of one member, in places and sizes that differ."""
    together = ((0, 0, 0, 1, 2, 2, 2), (1, 0, 0, 2, 2, 0), (0, 2, 0, 2, 1), (1, 3, 0, 0, 2), (0,))
    batches = (range(6), range(1), range(3)) if subject.convention.layout != "any" else together
    for seed, ids in enumerate(batches):
        for size in (1.0, 40.0):
            yield (size * subject.rewards(len(ids), 9 + seed)).to(subject.dtype), torch.tensor(list(ids))


def check_single_member(subject: Subject) -> Outcome:
    """The mean of one number is that number in any precision, so the bound need not grow with 1/ε: it is capped."""

    def each() -> Iterator[Comparison]:
        for rewards, ids in _alone(subject):
            lone = torch.tensor([bool((ids == i).sum() == 1) for i in ids.tolist()])
            alone = subject.call(rewards, ids)[lone]
            if not bool(alone.isfinite().all()):
                raise Wrong(f"a group of one member gets the advantage {float(alone[0])}; 0 is required")
            most = NEGLIGIBLE / THRESHOLD / unit_roundoff(subject.dtype)
            scale = subject.required(rewards, ids)[1][lone].nan_to_num(nan=most).clamp(max=most)
            yield compare(alone, torch.zeros_like(alone), scale, subject.dtype)
            if not bool(lone.all()):  # nor does it touch the others
                value, error = subject.required(rewards, ids)
                yield compare(subject.call(rewards, ids)[~lone], value[~lone], error[~lone], subject.dtype)

    return compared(each())


def single_member_cause(subject: Subject) -> Diagnosis | None:
    found = [(subject.call(rewards, ids), ids) for rewards, ids in _alone(subject)]
    if _sorted_by_group(subject):
        return _SORTED
    if not all(bool(advantages.isfinite().all()) for advantages, _ in found):
        if not bool(_of_ones(subject).isfinite().all()):
            return _ZERO_OVER_ZERO
        cause = "the unbiased standard deviation of one number is 0/0: NaN"
        return Diagnosis("std-of-one", cause, "smallest_group=2")
    lone = [a for advantages, ids in found for a, i in zip(advantages, ids, strict=True) if int((ids == i).sum()) == 1]
    if max(map(abs, map(float, lone)), default=0.0) > NEGLIGIBLE:
        return Diagnosis("lone-member", "a group of one member is not centred on itself")
    if not _ordinary_values(subject):
        return None  # nor are those of other groups what is declared
    return Diagnosis("beside-a-lone-member", "a group of one member changes what the others get")


def check_determinism(subject: Subject) -> Outcome:
    return repeated(lambda i, k: subject.call(*subject.equal_groups(i), elsewhere=k), "advantages")


def _any_layout(subject: Subject) -> str | None:
    return "declared layout='contiguous'" if subject.convention.layout == "contiguous" else None


def _no_zero_mean(subject: Subject) -> str | None:
    c = subject.convention
    if c.clamp:
        return "clamped advantages do not add up to 0"
    return "declared a mean that is not the group's" if c.mean == "global" or c.trim else None


def _no_lone_member(subject: Subject) -> str | None:
    if subject.convention.smallest_group > 1:
        return "declared smallest_group=2"
    return (
        "declared mean='global', from which a lone member may differ" if subject.convention.mean == "global" else None
    )


_SORTED = Diagnosis(
    "sorted", "the advantages come back sorted by group, not in the order of the rewards", "layout='contiguous'"
)
_PLACE = Diagnosis(
    "position", "the groups are taken from the places in the batch, not from group_ids", "layout='contiguous'"
)

CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "values",
        "the advantages are the declared ones",
        "the variance for the standard deviation, wrong axis, all rewards for the group's, unbiasedness, place of ε",
        check_values,
        direct=lambda s: half_precision(s.call(*s.equal_groups())),
        whole=True,
    ),
    Check(
        "zero-mean",
        "each group's advantages add up to 0",
        "a mean over the whole batch, or none; a clamp before centring",
        check_zero_mean,
        _no_zero_mean,
    ),
    Check(
        "shift",
        "rewards + b have the same advantages",
        "a mean that is missing, or not the one subtracted",
        check_shift,
    ),
    Check(
        "scale",
        "rewards × c have the same advantages, up to ε",
        "the variance for the standard deviation, a fixed scale",
        check_scale,
    ),
    Check(
        "equal-rewards",
        "a group whose rewards are equal up to rounding has advantages of about 0",
        "a tiny ε that was not declared, which turns rounding noise into advantages of about ½; 0/0",
        check_equal_rewards,
        direct=equal_rewards_cause,
    ),
    Check(
        "permutation",
        "reordering the samples reorders the advantages",
        "groups taken from the place in the batch",
        check_permutation,
        _any_layout,
        order_cause,
    ),
    Check(
        "group-sizes",
        "groups may differ in size and have any ids",
        "a reshape to (groups, members), ids used as indices",
        check_group_sizes,
        _any_layout,
        _sizes_cause,
    ),
    Check(
        "single-member",
        "the only member of a group has the advantage 0",
        "NaN from an unbiased standard deviation",
        check_single_member,
        _no_lone_member,
        single_member_cause,
    ),
    Check(
        "determinism",
        "two calls give the same bits",
        "random tie-breaking, a running mean or another state that a call leaves behind",
        check_determinism,
        direct=lambda s: CHANGES,
    ),
)
"""In reading order."""
