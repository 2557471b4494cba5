"""The obligations of an advantage estimator."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.bounds import unit_roundoff
from gradcheck.compare import Comparison, compare
from gradcheck.oracle.parts._advantage_subject import Subject
from gradcheck.oracle.parts._calls import Wrong, compared
from gradcheck.oracle.parts._part import Check
from gradcheck.oracle.results import Diagnosis, Outcome

__all__ = ["CHECKS", "NEGLIGIBLE"]

NEGLIGIBLE = 0.01
"""What the advantage of a group of equal rewards may be: nothing beside a typical advantage, whose size is 1."""


def _compare(subject: Subject, rewards: Tensor, ids: Tensor) -> Comparison:
    value, scale = subject.required(rewards, ids)
    return compare(subject.call(rewards, ids), value, scale, subject.dtype)


def check_values(subject: Subject) -> Outcome:
    cases = [subject.equal_groups(seed, outlier=seed == 3, narrow=seed == 2) for seed in range(4)]
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
    """16 R has the same advantages, but for ε; without a division, advantages 16 times as large."""
    c = subject.convention

    def each(seed: int) -> Comparison:
        rewards, ids = subject.equal_groups(seed)
        plain, grown = subject.call(rewards, ids), subject.call(16 * rewards, ids)
        _, scale = subject.required(rewards, ids)
        if c.std == "none":
            return compare(grown, 16 * plain, 32 * scale, subject.dtype)
        pool = [rewards] if c.std == "global" else [rewards[ids == i] for i in set(ids.tolist())]
        smallest = min(float(p.to(torch.float64).std(correction=0)) for p in pool)
        free = c.eps / smallest / unit_roundoff(subject.dtype) / 4
        return compare(grown, plain, 2 * scale + free * grown.abs(), subject.dtype)

    return compared(each(seed) for seed in range(3))


def check_equal_rewards(subject: Subject) -> Outcome:
    for value in (0.1, 0.7, 1.0, 3.3):
        for dtype in dict.fromkeys((subject.dtype, torch.float32)):
            base = torch.full((30,), value, dtype=dtype)
            last = torch.tensor([0.0, 1.0, 0.0, -1.0, 1.0, 0.0], dtype=dtype).repeat(5) * torch.finfo(dtype).eps * value
            for what, rewards in (("equal", base), ("equal up to rounding", base + last)):
                found = subject.call(rewards, torch.arange(5).repeat_interleave(6))
                if not bool(found.isfinite().all()):
                    raise Wrong(f"a group whose rewards are all {value} ({what}) gets an advantage that is not finite")
                if float(found.abs().max()) > NEGLIGIBLE:
                    name = str(dtype).removeprefix("torch.")
                    raise Wrong(
                        f"a group whose {name} rewards are all {value} ({what}) gets an advantage of "
                        f"{float(found.abs().max()):.3g}; at most {NEGLIGIBLE} is required"
                    )
    return Outcome("passed", 16)


def equal_rewards_cause(subject: Subject) -> Diagnosis:
    try:
        finite = bool(
            subject.call(torch.ones(12, dtype=subject.dtype), torch.arange(2).repeat_interleave(6)).isfinite().all()
        )
    except Wrong:
        finite = True
    if not finite:
        return Diagnosis("zero-over-zero", "0/0: nothing keeps the divisor from being 0 where all rewards are equal")
    return Diagnosis(
        "eps-below-rounding",
        "ε is smaller than the rewards' rounding error, so rounding noise is divided by its own size: use a larger ε, "
        "or give 0 where the standard deviation is within rounding of 0",
    )


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
    sizes, names = (2, 7, 3, 12), (40, 3, 1_000, 17)
    ids = torch.cat([torch.full((size,), name) for size, name in zip(sizes, names, strict=True)])

    def each(seed: int) -> Comparison:
        order = torch.randperm(24, generator=torch.Generator().manual_seed(seed)) if seed else torch.arange(24)
        return _compare(
            subject, (subject.rewards(24, seed) + 0.01 * ids.clamp(max=50)).to(subject.dtype)[order], ids[order]
        )

    return compared(each(seed) for seed in range(3))


def check_single_member(subject: Subject) -> Outcome:
    contiguous = subject.convention.layout == "contiguous"
    ids = torch.arange(6) if contiguous else torch.tensor([0, 0, 0, 1, 2, 2, 2])
    rewards = subject.rewards(len(ids), 9)
    alone = subject.call(rewards, ids)[ids == 1]
    if not bool(alone.isfinite().all()):
        raise Wrong(f"a group of one member gets the advantage {float(alone[0])}; 0 is required")
    value, scale = subject.required(rewards, ids)
    return compared([compare(alone, value[ids == 1], scale[ids == 1], subject.dtype)])


def single_member_cause(subject: Subject) -> Diagnosis | None:
    rewards = subject.rewards(7, 9)
    ids = torch.arange(6) if subject.convention.layout == "contiguous" else torch.tensor([0, 0, 0, 1, 2, 2, 2])
    found = subject.call(rewards[: len(ids)], ids)[ids == 1]
    if bool(found.isfinite().all()):
        return None
    return Diagnosis("std-of-one", "the unbiased standard deviation of one number is 0/0: NaN")


def _any_layout(subject: Subject) -> str | None:
    return "declared layout='contiguous'" if subject.convention.layout == "contiguous" else None


_PLACE = Diagnosis(
    "position", "the groups are taken from the places in the batch, not from group_ids", "layout='contiguous'"
)

CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "values",
        "the advantages are the declared ones",
        "the variance for the standard deviation, wrong axis, all rewards for the group's, unbiasedness, place of ε",
        check_values,
    ),
    Check(
        "zero-mean",
        "each group's advantages add up to 0",
        "a mean over the whole batch, or none; a clamp before centring",
        check_zero_mean,
        lambda s: "clamped advantages do not add up to 0" if s.convention.clamp else None,
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
        lambda s: "the clamp is not scale-free" if s.convention.clamp and s.convention.std == "none" else None,
    ),
    Check(
        "equal-rewards",
        "a group whose rewards are equal up to rounding has advantages of about 0",
        "a tiny ε, which turns rounding noise into advantages of about ½; 0/0",
        check_equal_rewards,
        direct=equal_rewards_cause,
    ),
    Check(
        "permutation",
        "reordering the samples reorders the advantages",
        "groups taken from the place in the batch",
        check_permutation,
        _any_layout,
        lambda s: _PLACE,
    ),
    Check(
        "group-sizes",
        "groups may differ in size and have any ids",
        "a reshape to (groups, members), ids used as indices",
        check_group_sizes,
        _any_layout,
        lambda s: _PLACE,
    ),
    Check(
        "single-member",
        "the only member of a group has the advantage 0",
        "NaN from an unbiased standard deviation",
        check_single_member,
        direct=single_member_cause,
    ),
)
"""In reading order."""
