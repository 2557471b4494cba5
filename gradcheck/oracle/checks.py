r"""The checks behind the obligations: does it behave like a function, is its gradient the derived one, where not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from gradcheck.bounds import THRESHOLD, error_scale, unit_roundoff
from gradcheck.case import Case
from gradcheck.compare import Comparison, compare, judgeable, required_gradients
from gradcheck.compiled import evaluate
from gradcheck.oracle.judging import Judge, compare_over, gradient_on, together
from gradcheck.oracle.reference import Reference, effective_case, overall_factor, working_dtype
from gradcheck.oracle.results import Outcome
from gradcheck.problems import Spec, has_clip

# ------------------------------------------------------------------------------- behaving like a function


def check_determinism(judge: Judge) -> Outcome:
    for n, spec in enumerate(judge.specs(), 1):
        case = judge.case(spec)
        first = judge.observe(case)
        with torch.random.fork_rng(devices=[]):  # so that a loss that draws random numbers shows it
            torch.manual_seed(20_000 + n)
            second = judge.observe(case)
        if not (_bits_equal(first.gradient, second.gradient) and _bits_equal(first.loss, second.loss)):
            apart = float((first.gradient - second.gradient).abs().max())
            return Outcome(
                "failed",
                n,
                math.inf,
                f"two calls on the same case give gradients that differ by {apart:.3g}",
                spec=spec,
            )
        if n >= 3:
            break
    return Outcome("passed", n)


def _bits_equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def check_inputs_untouched(judge: Judge) -> Outcome:
    for n, spec in enumerate(judge.specs(), 1):
        seen = judge.observe(judge.case(spec))
        if seen.changed:
            return Outcome("failed", n, math.inf, f"the call changes {', '.join(seen.changed)} in place", spec=spec)
        if seen.side_effects:
            return Outcome("failed", n, math.inf, f"the call {'; '.join(seen.side_effects)}", spec=spec)
        if n >= 3:
            break
    return Outcome("passed", n)


def check_finite(judge: Judge) -> Outcome:
    count = 0
    for policy in ("off", "far") if has_clip(judge.conventions.derivation) else ("off",):
        for spec in judge.specs(policy=policy, time="mixed", advantage="mixed"):
            case = judge.case(spec)
            wanted = judge.reference(case)
            observed = judge.observe(case).gradient
            bad = ~observed.isfinite() & judgeable(wanted.gradient, wanted.scale, wanted.dtype)
            count += 1
            if bool(bad.any()):
                at = tuple(int(i) for i in bad.nonzero()[0])
                detail = (
                    f"the gradient is {float(observed[at])} at {at}, where {float(wanted.gradient[at]):.6g} is required"
                )
                return Outcome("failed", count, math.inf, detail, spec=spec)
    return Outcome("passed", count)


# --------------------------------------------------------------------------------- the gradient itself


def check_gradient(judge: Judge) -> Outcome:
    return gradient_on(judge, policy="mixed", time="middle")


def check_equivalence(judge: Judge) -> Outcome:
    derivation = judge.conventions.derivation

    def one(case: Case) -> Comparison:
        effective, factor = effective_case(judge.conventions, case), overall_factor(judge.conventions, case)
        dtype = working_dtype(judge.conventions, case)
        _, raw, required, pull, undecided = required_gradients(derivation, effective, False)
        scale = abs(factor) * (raw + pull + required.abs())
        scale = torch.where(undecided, torch.inf, scale)  # 'clip' judges these
        return compare(judge.observe(case).gradient, factor * required, scale, dtype)

    return compare_over(judge, judge.specs(policy="mixed", time="middle"), one)


def check_value(judge: Judge) -> Outcome:
    derivation = judge.conventions.derivation

    def one(case: Case) -> Comparison:
        effective, conventions = effective_case(judge.conventions, case), judge.conventions
        dtype = working_dtype(conventions, case)
        (loss,) = evaluate(derivation, effective, derivation.loss, dtype=torch.float64)
        (scale,), _ = error_scale(derivation, effective, derivation.inline(derivation.loss), dtype=dtype)
        per_sample, error = loss.reshape(-1), (scale + 2 * loss.abs()).reshape(-1)
        if conventions.batch_reduction == "none":
            required, bound = per_sample, error
        else:
            count = len(per_sample) if conventions.batch_reduction == "mean" else 1
            required = (per_sample.sum() / count)[None]
            bound = ((error + len(per_sample) * per_sample.abs()).sum() / count)[None]
        observed = judge.observe(case).loss.reshape(-1)
        return compare(observed, conventions.factor * required, abs(conventions.factor) * bound, dtype)

    return compare_over(judge, judge.specs(policy="mixed", time="middle"), one)


def check_on_policy(judge: Judge) -> Outcome:
    return gradient_on(judge, policy="on-policy", time="middle")


def check_clip(judge: Judge) -> Outcome:
    outcomes = [gradient_on(judge, policy=policy, time="middle") for policy in ("inside", "outside", "far")]
    return together(outcomes)


def check_zero_advantage(judge: Judge) -> Outcome:
    return gradient_on(judge, policy="off", advantage="zero", time="middle")


def check_kl(judge: Judge) -> Outcome:
    """The reference term alone: no advantage, so that nothing else is left of a policy gradient."""
    return gradient_on(judge, policy="near", advantage="zero", time="middle")


def check_edge_times(judge: Judge) -> Outcome:
    return together([gradient_on(judge, time=time) for time in ("near-data", "near-noise")])


def check_shapes(judge: Judge) -> Outcome:
    shapes = (
        (1, (5,)),
        (4, (1,)),
        (1, (1,)),
        (2, (3,)),
        (3, (3, 4)),
        (2, (2, 4, 4)),
        (4, (4, 4)),
        (2, (2, 2, 3, 3)),
        (5, (1, 6)),
    )

    def specs() -> Iterator[Spec]:
        for i, (batch, latent) in enumerate(shapes):
            yield Spec(batch, latent, seed=judge.seed + i, time="middle")

    return compare_over(
        judge, specs(), lambda case: judge.reference(case).compare(judge.observe(_strided(case)).gradient)
    )


def _strided(case: Case) -> Case:
    """The same numbers in memory that is not contiguous, as a slice or a transposed latent is."""

    def spread(x: Tensor) -> Tensor:
        wide = torch.empty((*x.shape, 2), dtype=x.dtype, device=x.device)
        wide[..., 0] = x.detach()
        return wide[..., 0]

    latents = {n: spread(getattr(case, n)) for n in case.names if _is_latent(case, n)}
    return case.replace(**latents)


def _is_latent(case: Case, name: str) -> bool:
    value = getattr(case, name)
    return isinstance(value, Tensor) and value.shape == case.v_theta.shape and value.ndim > 1


# ------------------------------------------------------------------------------------- across the batch


def _per_sample(case: Case) -> list[str]:
    """Quantities with a row for each sample."""
    skip = {"sigmas"}
    return [n for n in case.names if isinstance(getattr(case, n), Tensor) and n not in skip]


def _two_roundings(wanted: Reference, observed: Tensor) -> Tensor:
    """The error scale of two evaluations of the same gradient, be it the right one or not."""
    return 2 * wanted.scale + 4 * observed.abs().to(torch.float64)


def check_sample_independence(judge: Judge) -> Outcome:
    """The first sample in two companies, which share nothing but the time grid."""

    def one(case: Case) -> Comparison:
        half = (case.v_theta.shape[0] + 1) // 2
        rows = torch.arange(case.v_theta.shape[0], device=case.v_theta.device)
        first, second = (_rows(case, torch.cat([rows[:1], rest])) for rest in (rows[1:half], rows[half:]))
        wanted = judge.reference(first)
        before, after = (judge.observe(c).gradient for c in (first, second))
        return compare(after[:1], before[:1], _two_roundings(wanted, before)[:1], wanted.dtype)

    specs = (replace(s, batch=2 * max(s.batch, 3) - 1) for s in judge.specs(policy="off", time="middle"))
    return compare_over(judge, specs, one, at_least=3)


def _rows(case: Case, rows: Tensor | slice) -> Case:
    """Some samples of a case, as a case of their own."""
    return case.replace(**{n: getattr(case, n)[rows].detach() for n in _per_sample(case)})


def check_permutation(judge: Judge) -> Outcome:
    def one(case: Case) -> Comparison:
        order = torch.roll(torch.arange(case.v_theta.shape[0], device=case.v_theta.device), 1)
        wanted = judge.reference(case)
        before = judge.observe(case).gradient
        after = judge.observe(_rows(case, order)).gradient
        return compare(after, before[order], _two_roundings(wanted, before)[order], wanted.dtype)

    specs = (replace(s, batch=max(s.batch, 2)) for s in judge.specs(policy="off", time="middle"))
    return compare_over(judge, specs, one, at_least=2)


def check_micro_batching(judge: Judge) -> Outcome:
    def one(case: Case) -> Comparison:
        batch = case.v_theta.shape[0]
        half = batch // 2
        wanted = judge.reference(case)
        whole = judge.observe(case).gradient
        parts = []
        for part in (slice(0, half), slice(half, batch)):
            count = part.stop - part.start
            share = count / batch if judge.conventions.batch_reduction == "mean" else 1.0
            parts.append(judge.observe(_rows(case, part)).gradient * share)
        return compare(torch.cat(parts), whole, _two_roundings(wanted, whole), wanted.dtype)

    specs = (replace(s, batch=max(s.batch, 3)) for s in judge.specs(policy="off", time="middle"))
    return compare_over(judge, specs, one, at_least=2)


# ------------------------------------------------------------------------------ graph, precision, compiler


_DETACHED = (
    "v_old",
    "v_ref",
    "x_prev",
    "mean_old",
    "mean_ref",
    "log_prob_old",
    "advantage",
    "reward_prob",
    "w_plus",
    "w_minus",
)


def check_stop_gradient(judge: Judge) -> Outcome:
    for n, spec in enumerate(judge.specs(policy="off", time="middle"), 1):
        case = judge.case(spec)
        seen = judge.observe(case, watch_leaks=True)
        leaks = [name for name in seen.leaked if name in _DETACHED]
        if leaks:
            return Outcome("failed", n, math.inf, f"a gradient flows into {', '.join(leaks)}", spec=spec)
        if n >= 3:
            break
    return Outcome("passed", n)


def check_precision(judge: Judge) -> Outcome:
    """In float32: within its bound, and how many digits of the gradient are left."""
    digits: list[float] = []

    def one(case: Case) -> Comparison:
        wanted = judge.reference(case)
        bound = THRESHOLD * unit_roundoff(wanted.dtype) * wanted.scale
        seen = (wanted.gradient != 0) & judgeable(wanted.gradient, wanted.scale, wanted.dtype)
        if bool(seen.any()):
            digits.append(float((wanted.gradient.abs()[seen] / bound[seen]).log10().median()))
        return wanted.compare(judge.observe(case).gradient)

    outcome = compare_over(replace(judge, dtype=torch.float32), judge.specs(policy="off", time="middle"), one)
    left = (
        f"{max(min(digits), 0):.1f} to {max(digits):.1f} digits of the gradient are left in float32" if digits else ""
    )
    return replace(outcome, note=left)


def check_compiled(judge: Judge) -> Outcome:
    torch.compiler.reset()
    function = torch.compile(judge.adapter.function, dynamic=False)
    compiled = replace(judge, adapter=replace(judge.adapter, function=function))
    specs = [next(iter(judge.specs(policy="off", time="middle")))]
    return compare_over(judge, iter(specs), lambda case: judge.reference(case).compare(compiled.observe(case).gradient))
