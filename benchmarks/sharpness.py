"""How sharp the check is: false alarms over many right evaluations, and the smallest error that it always sees.

``python -m benchmarks.sharpness --checks 1000000 --tries 1000`` prints both tables; one sample of a batch is one check:
it has its own time, advantage, clip regime and velocities, and is judged alone.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, Entry, entry
from gradcheck.compare import gradient_of
from gradcheck.compiled import evaluate
from gradcheck.problems import POLICY, Spec, build, has_clip
from gradcheck.streaming import sample_ratios

from . import text

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIZES = ((16,), (5, 7), (4, 8, 8), (4096,), (16, 64, 64), (1_000_000,))
SHARES = (0.5, 0.3, 0.17, 0.025, 0.0045, 0.0005)
"""Of the checks, by size: most are small, and a few hundred have a million coordinates."""
TOGETHER = 2**22  # coordinates in one batch

# ----------------------------------------------------------------------------------------- false alarms


def by_hand(one: Entry, case: Case) -> Tensor:
    return gradient_of(one.loss(case), case.v_theta)


def by_formula(one: Entry, case: Case) -> Tensor:
    """Autograd of the loss as torch code that was generated from its formula."""
    (loss,) = evaluate(one.derivation, case, one.derivation.loss)
    return gradient_of(loss, case.v_theta)


def closed_form(one: Entry, case: Case) -> Tensor:
    """The derived gradient, evaluated in the case's own precision."""
    with torch.no_grad():
        (gradient,) = evaluate(one.derivation, case, one.derivation.gradient)
    return gradient.expand(case.v_theta.shape)


def backwards(one: Entry, case: Case) -> Tensor:
    """The hand-written loss with the coordinates in reverse order, so that sums run the other way."""
    shape = case.v_theta.shape
    latents = {n: x for n in case.names if isinstance(x := getattr(case, n), Tensor) and x.shape == shape}
    turned = case.replace(**{n: x.detach().flatten(1).flip(1).reshape(shape) for n, x in latents.items()})
    turned.v_theta.requires_grad_()
    return by_hand(one, turned).flatten(1).flip(1).reshape(shape)


def one_by_one(one: Entry, case: Case) -> Tensor:
    """The hand-written loss, one micro-batch after another."""
    rows = {n for n in case.names if isinstance(getattr(case, n), Tensor) and n != "sigmas"}
    parts = []
    for i in range(0, case.v_theta.shape[0], 7):
        part = case.replace(**{n: getattr(case, n)[i : i + 7].detach() for n in rows})
        part.v_theta.requires_grad_()
        parts.append(by_hand(one, part))
    return torch.cat(parts)


ORDERS: tuple[Callable[[Entry, Case], Tensor], ...] = (by_hand, by_formula, closed_form, backwards, one_by_one)


@dataclass
class Tally:
    """What came out for one algorithm in one precision."""

    checks: int = 0
    alarms: int = 0
    worst: float = 0.0
    unjudged: float = 0.0


def specs(one: Entry, checks: int, seed: int) -> Iterator[tuple[Spec, int]]:
    """Batches until so many samples have been drawn, and which evaluation order each is for."""
    policies = ("mixed", *(POLICY if has_clip(one.derivation) else POLICY[:3]))
    number = 0
    for share, latent in zip(SHARES, SIZES, strict=True):
        left = max(1, round(checks * share))
        while left > 0:
            batch = min(left, 512, max(1, TOGETHER // math.prod(latent)))
            yield Spec(batch, latent, seed + number, policy=policies[number % len(policies)], clip=number % 4), number
            left -= batch
            number += 1


def false_alarms(checks: int, seed: int = 0) -> dict[tuple[str, torch.dtype], Tally]:
    """Judge right evaluations of every entry; the law is that none is called wrong."""
    tallies: dict[tuple[str, torch.dtype], Tally] = {}
    each = math.ceil(checks / (len(CATALOGUE) * len(DTYPES)))
    for i, one in enumerate(CATALOGUE):
        for dtype in DTYPES:
            tally = tallies.setdefault((one.symbolic.NAME, dtype), Tally())
            for spec, number in specs(one, each, seed + 1_000_000 * i):
                case = build(one.derivation, spec, dtype)
                order = ORDERS[number % len(ORDERS)]
                if order is one_by_one and math.prod(spec.latent) > 5000:
                    order = by_hand
                observed = order(one, case)
                ratios, judged = sample_ratios(one.derivation, case, observed)
                tally.checks += len(ratios)
                tally.alarms += int((ratios > 4).sum())
                tally.worst = max(tally.worst, float(ratios.max()))
                tally.unjudged += float((1 - judged).sum())
    return tallies


def false_alarm_table(tallies: dict[tuple[str, torch.dtype], Tally]) -> str:
    rows = [
        (
            name,
            text.name(d),
            f"{t.checks:,}",
            str(t.alarms),
            f"{t.worst:.2f}",
            f"{100 * t.unjudged / t.checks:.1f} %",
        )
        for (name, d), t in tallies.items()
    ]
    total = sum(t.checks for t in tallies.values())
    alarms = sum(t.alarms for t in tallies.values())
    worst = max(t.worst for t in tallies.values())
    rows.append(("**all**", "", f"**{total:,}**", f"**{alarms}**", f"**{worst:.2f}**", ""))
    return text.table(("algorithm", "dtype", "checks", "alarms", "worst test ratio", "cannot be judged"), rows)


# ------------------------------------------------------------------------------------------ sensitivity

SEEN = (("flow_grpo", "mean"), ("grpo_guard", "mean"), ("awm", "mean"), ("diffusion_nft", "mean"), ("rwr", "mean"))


REFUSED = 99
"""In place of k where the right gradient is refused already."""


def problems(tries: int, dtype: torch.dtype) -> Iterator[tuple[Entry, Case]]:
    """Batches whose samples have a gradient to be wrong: off-policy, inside the clip, amid the time axis."""
    for i, (name, variant) in enumerate(SEEN):
        one = entry(name, variant)
        policy = "inside" if has_clip(one.derivation) else "off"
        yield one, build(one.derivation, Spec(tries // len(SEEN), (4, 4), 77 + i, policy, time="middle"), dtype)


def seen_by_gradcheck(tries: int, dtype: torch.dtype) -> Tensor:
    """For each try the largest k such that an error of 10^-k in the gradient is refused; 99 where the right one is."""
    found = []
    for one, case in problems(tries, dtype):
        right = by_hand(one, case)
        smallest = torch.full((len(right),), -1)
        for k in range(17):
            ratios, _ = sample_ratios(one.derivation, case, right.double() * (1 + 10.0**-k))
            smallest = torch.where((ratios > 4) & (smallest == k - 1), k, smallest)
        alive = (right.flatten(1) != 0).any(1)
        ratios, _ = sample_ratios(one.derivation, case, right)
        found.append(torch.where(ratios > 4, REFUSED, smallest)[alive])
    return torch.cat(found)


def seen_by_assert_close(tries: int, dtype: torch.dtype) -> Tensor:
    """The same for ``torch.testing.assert_close`` against the derived gradient, with its default tolerances."""
    found = []
    for one, case in problems(tries, dtype):
        right = by_hand(one, case)
        for required, observed in zip(closed_form(one, case), right, strict=True):
            if not bool((observed != 0).any()):
                continue
            if _close(observed, required):
                found.append(_last_refused(lambda k, r=required, o=observed: _close(o.double() * (1 + 10.0**-k), r)))
            else:
                found.append(REFUSED)
    return torch.tensor(found)


def _close(observed: Tensor, required: Tensor) -> bool:
    try:
        torch.testing.assert_close(observed.to(required.dtype), required)
    except AssertionError:
        return False
    return True


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is wrong by a factor."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
        return gradient * ctx.factor, None


def seen_by_torch(tries: int, fast: bool) -> Tensor:
    """The same for ``torch.autograd.gradcheck`` in float64, with its default tolerances."""
    found = []
    for one, case in problems(tries, torch.float64):
        rows = [n for n in case.names if isinstance(getattr(case, n), Tensor)]
        for i in range(case.v_theta.shape[0]):
            single = case.replace(**{n: getattr(case, n)[i : i + 1].detach() for n in rows})
            v = single.v_theta.clone().requires_grad_()
            if not bool((by_hand(one, single.replace(v_theta=v)) != 0).any()):
                continue

            def accepted(k: int, one=one, single=single, v=v) -> bool:  # type: ignore[no-untyped-def]
                return torch.autograd.gradcheck(
                    lambda x: one.loss(single.replace(v_theta=_Scaled.apply(x, 1 + (10.0**-k if k < 17 else 0.0)))),
                    v,
                    raise_exception=False,
                    fast_mode=fast,
                )

            found.append(_last_refused(accepted) if accepted(17) else REFUSED)
    return torch.tensor(found)


def _last_refused(accepted: Callable[[int], bool]) -> int:
    """The largest k up to which every error of 10^-k is refused; −1 if not even a doubling is."""
    k = 0
    while k < 17 and not accepted(k):
        k += 1
    return k - 1


def sensitivity_table(tries: int) -> str:
    rows = []
    columns = {
        "gradcheck, float64": seen_by_gradcheck(tries, torch.float64),
        "gradcheck, float32": seen_by_gradcheck(tries, torch.float32),
        "gradcheck, bfloat16": seen_by_gradcheck(tries, torch.bfloat16),
        "`torch.autograd.gradcheck`, slow, float64": seen_by_torch(tries, fast=False),
        "`torch.autograd.gradcheck`, fast, float64": seen_by_torch(tries, fast=True),
        "`torch.testing.assert_close`, float64": seen_by_assert_close(tries, torch.float64),
        "`torch.testing.assert_close`, float32": seen_by_assert_close(tries, torch.float32),
        "`torch.testing.assert_close`, bfloat16": seen_by_assert_close(tries, torch.bfloat16),
    }
    for name, ks in columns.items():
        wrong, fair = int((ks == REFUSED).sum()), ks[ks != REFUSED]
        rows.append((name, str(len(ks)), _power(int(fair.min())), _power(int(fair.median())), str(wrong)))
    header = ("check", "tries", "relative error always seen", "seen in half of the tries", "right gradients refused")
    return text.table(header, rows)


def _power(k: int) -> str:
    return {-1: "none, not even a doubling", 0: "1"}.get(
        k, f"10⁻{str(k).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=int, default=100_000)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(sensitivity_table(options.tries), "\n")
    print(false_alarm_table(false_alarms(options.checks, options.seed)))


if __name__ == "__main__":
    main()
