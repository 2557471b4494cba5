"""How sharp the check is: the smallest error that it always sees.  ``python -m benchmarks.sharpness --tries 1000``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.catalogue import Entry, entry
from gradcheck.derived.compiled import evaluate
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import gradient_of
from gradcheck.rounding.streaming import sample_ratios

from . import text


def by_hand(one: Entry, case: Case) -> Tensor:
    return gradient_of(one.loss(case), case.v_theta)


def closed_form(one: Entry, case: Case) -> Tensor:
    """The derived gradient, evaluated in the case's own precision."""
    with torch.no_grad():
        (gradient,) = evaluate(one.derivation, case, one.derivation.gradient)
    return gradient.expand(case.v_theta.shape)


SEEN = (("flow_grpo", "mean"), ("grpo_guard", "mean"), ("awm", "mean"), ("diffusion_nft", "mean"), ("rwr", "mean"))


REFUSED = 99
"""In place of k where the right gradient is refused already."""


def problems(tries: int, dtype: torch.dtype) -> Iterator[tuple[Entry, Case]]:
    """Batches whose samples have a gradient to be wrong: off-policy, inside the clip, amid the time axis."""
    for i, (name, variant) in enumerate(SEEN):
        one = entry(name, variant)
        policy = "inside" if Piece.RATIO in one.derivation.pieces else "off"
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
    parser.add_argument("--tries", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(sensitivity_table(options.tries))


if __name__ == "__main__":
    main()
