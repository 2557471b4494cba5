r"""The obligations: named checks that every right implementation of a declared loss passes.

Each is a function of a :class:`Judge` that returns an :class:`Outcome`; its name is the id.  The order is that of
a reading person: does it run at all and behave as a function, is its gradient the derived one, and where not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from derivations.calculus import ClipMask
from derivations.notation import kl_weight
from gradcheck.bounds import THRESHOLD, error_scale, unit_roundoff
from gradcheck.case import Case
from gradcheck.compare import Comparison, compare, judgeable, required_gradients
from gradcheck.compiled import evaluate
from gradcheck.conventions import Conventions
from gradcheck.oracle.adapter import Adapter, Observation
from gradcheck.oracle.reference import (
    Reference,
    effective_case,
    oracle_case,
    overall_factor,
    reference,
    working_dtype,
)
from gradcheck.oracle.results import Outcome
from gradcheck.problems import Spec, has_clip

__all__ = ["OBLIGATIONS", "Judge", "Obligation"]

_SHAPES: tuple[tuple[int, tuple[int, ...]], ...] = (
    (3, (4, 5)),
    (5, (2, 3, 4)),
    (4, (3, 5, 2)),
    (2, (7,)),
    (3, (2, 4, 5, 1)),
)


@dataclass(frozen=True)
class Judge:
    """One implementation on one device in one precision, and the problems to try it on."""

    adapter: Adapter
    conventions: Conventions
    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    max_examples: int = 10
    seed: int = 0
    compiled: bool = False

    def specs(self, **regimes: str) -> Iterator[Spec]:
        """Problems of the given regimes, in shapes of two to four axes whose sizes differ."""
        for i in range(self.max_examples):
            batch, latent = _SHAPES[i % len(_SHAPES)]
            clip = i % 3 if "clip_low" not in self.conventions.fixed else 0
            yield Spec(batch, latent, seed=self.seed * 1_000_003 + i, clip=clip, **regimes)

    def case(self, spec: Spec, dtype: torch.dtype | None = None) -> Case:
        return oracle_case(self.conventions, spec, dtype or self.dtype, self.device)

    def observe(self, case: Case, watch_leaks: bool = False) -> Observation:
        return self.adapter.observe(case, watch_leaks)

    def reference(self, case: Case) -> Reference:
        return reference(self.conventions, case)


@dataclass(frozen=True)
class Obligation:
    """A named check.

    Attributes:
        id: as reports and ``expected_failures`` name it.
        statement: what a right implementation does.
        catches: the class of mistakes that it is for.
        check: the function.
        applies: ``None`` where it applies, else why not.
    """

    id: str
    statement: str
    catches: str
    check: Callable[[Judge], Outcome]
    applies: Callable[[Conventions], str | None] = lambda conventions: None


_Compared = tuple[Spec, Comparison]


def _over(judge: Judge, specs: Iterator[Spec], one: Callable[[Case], Comparison]) -> Outcome:
    """Compare on every problem; on a failure, look for the smallest problem of the same regimes that fails too."""
    ratios = []
    worst: _Compared | None = None
    for spec in specs:
        result = one(judge.case(spec))
        ratios.append(result.ratio)
        if worst is None or result.ratio > worst[1].ratio:
            worst = (spec, result)
        if not result.holds:
            worst = _smallest(judge, spec, one) or worst
            break
    assert worst is not None
    spec, result = worst
    failed = not result.holds
    detail = _figures(result) if failed else ""
    return Outcome(
        "failed" if failed else "passed",
        len(ratios),
        result.ratio if failed else max(ratios),
        detail,
        result if failed else None,
        spec if failed else None,
        ratios=tuple(ratios),
    )


def _figures(result: Comparison) -> str:
    """Both numbers, with as many digits as it takes to see them differ."""
    observed, required = result.observed + 0.0, result.required + 0.0  # −0 reads like a sign error
    for digits in (6, 10, 17):
        if f"{observed:.{digits}g}" != f"{required:.{digits}g}":
            break
    return f"observed {observed:.{digits}g}, required {required:.{digits}g}"


def _smallest(judge: Judge, spec: Spec, one: Callable[[Case], Comparison]) -> _Compared | None:
    for batch, latent in ((1, (1,)), (1, (2,)), (2, (1,)), (2, (3,)), (2, (2, 3)), (3, (2, 1, 2))):
        for seed in range(3):
            small = replace(spec, batch=batch, latent=latent, seed=seed)
            result = one(judge.case(small))
            if not result.holds:
                return small, result
    result = one(judge.case(spec))
    return None if result.holds else (spec, result)


def _gradient_on(judge: Judge, **regimes: str) -> Outcome:
    return _over(
        judge, judge.specs(**regimes), lambda case: judge.reference(case).compare(judge.observe(case).gradient)
    )


# ------------------------------------------------------------------------------- behaving like a function


def check_determinism(judge: Judge) -> Outcome:
    for n, spec in enumerate(judge.specs(), 1):
        case = judge.case(spec)
        first, second = judge.observe(case), judge.observe(case)
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
    return _gradient_on(judge, policy="mixed", time="middle")


def check_equivalence(judge: Judge) -> Outcome:
    derivation = judge.conventions.derivation

    def one(case: Case) -> Comparison:
        effective, factor = effective_case(judge.conventions, case), overall_factor(judge.conventions, case)
        dtype = working_dtype(judge.conventions, case)
        _, raw, required, pull, undecided = required_gradients(derivation, effective, False)
        scale = abs(factor) * (raw + pull + required.abs())
        scale = torch.where(undecided, torch.inf, scale)  # 'clip' judges these
        return compare(judge.observe(case).gradient, factor * required, scale, dtype)

    return _over(judge, judge.specs(policy="mixed", time="middle"), one)


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

    return _over(judge, judge.specs(policy="mixed", time="middle"), one)


def check_on_policy(judge: Judge) -> Outcome:
    return _gradient_on(judge, policy="on-policy", time="middle")


def check_clip(judge: Judge) -> Outcome:
    outcomes = [_gradient_on(judge, policy=policy, time="middle") for policy in ("inside", "outside", "far")]
    return _together(outcomes)


def check_zero_advantage(judge: Judge) -> Outcome:
    return _gradient_on(judge, policy="off", advantage="zero", time="middle")


def check_kl(judge: Judge) -> Outcome:
    """The reference term alone: no advantage, so that nothing else is left of a policy gradient."""
    return _gradient_on(judge, policy="near", advantage="zero", time="middle")


def check_edge_times(judge: Judge) -> Outcome:
    return _together([_gradient_on(judge, time=time) for time in ("near-data", "near-noise")])


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

    return _over(judge, specs(), lambda case: judge.reference(case).compare(judge.observe(_strided(case)).gradient))


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


def check_sample_independence(judge: Judge) -> Outcome:
    def one(case: Case) -> Comparison:
        batch = case.v_theta.shape[0]
        before, wanted = judge.observe(case).gradient, judge.reference(case)
        shuffled = {
            n: torch.cat([getattr(case, n)[:1], getattr(case, n)[1:].flip(0)]).detach() for n in _per_sample(case)
        }
        changed = {}
        for n, x in shuffled.items():
            if x.is_floating_point() and n in ("v_theta", "advantage") and batch > 1:
                x = torch.cat([x[:1], x[1:] * 1.5 if n == "advantage" else x[1:] + 0.25])
            changed[n] = x
        after = judge.observe(case.replace(**changed)).gradient
        return compare(after[:1], before[:1], 2 * wanted.scale[:1], wanted.dtype)

    return _over(judge, (replace(s, batch=max(s.batch, 3)) for s in judge.specs(policy="off", time="middle")), one)


def check_permutation(judge: Judge) -> Outcome:
    def one(case: Case) -> Comparison:
        order = torch.roll(torch.arange(case.v_theta.shape[0], device=case.v_theta.device), 1)
        wanted = judge.reference(case)
        before = judge.observe(case).gradient
        after = judge.observe(case.replace(**{n: getattr(case, n)[order].detach() for n in _per_sample(case)})).gradient
        return compare(after, before[order], 2 * wanted.scale[order], wanted.dtype)

    return _over(judge, (replace(s, batch=max(s.batch, 2)) for s in judge.specs(policy="off", time="middle")), one)


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
            piece = case.replace(**{n: getattr(case, n)[part].detach() for n in _per_sample(case)})
            parts.append(judge.observe(piece).gradient * share)
        return compare(torch.cat(parts), whole, 2 * wanted.scale + 2 * wanted.gradient.abs(), wanted.dtype)

    return _over(judge, (replace(s, batch=max(s.batch, 3)) for s in judge.specs(policy="off", time="middle")), one)


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

    outcome = _over(replace(judge, dtype=torch.float32), judge.specs(policy="off", time="middle"), one)
    left = (
        f"{max(min(digits), 0):.1f} to {max(digits):.1f} digits of the gradient are left in float32" if digits else ""
    )
    return replace(outcome, note=left)


def check_compiled(judge: Judge) -> Outcome:
    torch.compiler.reset()
    function = torch.compile(judge.adapter.function, dynamic=False)
    compiled = replace(judge, adapter=replace(judge.adapter, function=function))
    specs = [next(iter(judge.specs(policy="off", time="middle")))]
    return _over(judge, iter(specs), lambda case: judge.reference(case).compare(compiled.observe(case).gradient))


def _together(outcomes: list[Outcome]) -> Outcome:
    failed = next((o for o in outcomes if o.status == "failed"), None)
    ratios = tuple(r for o in outcomes for r in o.ratios)
    examples = sum(o.examples for o in outcomes)
    if failed is not None:
        return replace(failed, examples=examples, ratios=ratios)
    return Outcome("passed", examples, max(o.ratio for o in outcomes), ratios=ratios)


# ----------------------------------------------------------------------------------------------- the list


def _needs_clip(conventions: Conventions) -> str | None:
    return (
        None
        if conventions.derivation.loss.atoms(ClipMask) or has_clip(conventions.derivation)
        else "this loss has no clip"
    )


def _needs_old(conventions: Conventions) -> str | None:
    return None if "v_old" in conventions.derivation.given else "this loss has no behaviour model"


def _needs_time(conventions: Conventions) -> str | None:
    return None if "t" in conventions.derivation.given else "this loss does not depend on the time"


def _needs_advantage(conventions: Conventions) -> str | None:
    given = {"advantage", "reward_prob"} & set(conventions.derivation.given)
    return None if given else "this loss has no advantage"


def _needs_reference_term(conventions: Conventions) -> str | None:
    return None if conventions.derivation.loss.has(kl_weight) else "no KL or reference term is declared"


def _needs_values(conventions: Conventions) -> str | None:
    return None if conventions.compare_values else "only gradients count, unless compare_values=True is declared"


def _needs_live_inputs(conventions: Conventions) -> str | None:
    return (
        None
        if not conventions.inputs_detached
        else "the trainer hands these over without a graph (inputs_detached=True)"
    )


OBLIGATIONS: tuple[Obligation, ...] = (
    Obligation(
        "determinism",
        "the same case gives the same gradient, bit for bit",
        "hidden state, random numbers, buffers that are reused",
        check_determinism,
    ),
    Obligation(
        "inputs-untouched",
        "neither the case's tensors nor the process's settings are changed",
        "in-place operations, global seeds, dtypes and grad modes",
        check_inputs_untouched,
    ),
    Obligation(
        "gradient",
        "d loss / d v_theta is the derived gradient",
        "signs, factors, missing terms, reductions, wrong coefficients, detached or live quantities",
        check_gradient,
    ),
    Obligation(
        "equivalence",
        "weight · ‖v_theta − sg(target)‖² has the same gradient",
        "the same mistakes, seen against the squared distance",
        check_equivalence,
    ),
    Obligation(
        "value",
        "the loss's value is the stated one",
        "terms under no_grad, wrong constants",
        check_value,
        _needs_values,
    ),
    Obligation(
        "on-policy",
        "at v_theta = v_old the ratio is 1 and the gradient the derived one",
        "a ratio that is not 1 on-policy, ties of min and max that lose half the gradient",
        check_on_policy,
        _needs_old,
    ),
    Obligation(
        "clip",
        "no gradient exactly where the clip is active, all of it elsewhere, for both signs of A",
        "clip missing, on the wrong side, on the log-ratio; min for max",
        check_clip,
        _needs_clip,
    ),
    Obligation(
        "sample-independence",
        "a sample's gradient depends on that sample alone",
        "coefficients, biases and weights averaged over the batch, broadcasts of (B,) against (B, 1)",
        check_sample_independence,
    ),
    Obligation(
        "permutation",
        "permuting the batch permutes the gradient",
        "indices and schedules that ignore the sample",
        check_permutation,
    ),
    Obligation(
        "micro-batching",
        "two halves, accumulated, give the whole",
        "reductions that do not scale with the batch",
        check_micro_batching,
    ),
    Obligation(
        "shapes",
        "any rank, one sample, one coordinate, strided memory",
        "reshapes for one layout, broadcasts that happen to fit",
        check_shapes,
    ),
    Obligation(
        "edge-times",
        "near data and near noise the gradient is still the derived one",
        "special cases of t, dt's sign, σ's of the wrong end",
        check_edge_times,
        _needs_time,
    ),
    Obligation(
        "zero-advantage",
        "without advantage there is no policy gradient",
        "terms that miss the advantage",
        check_zero_advantage,
        _needs_advantage,
    ),
    Obligation(
        "kl",
        "the reference term's gradient is the declared one",
        "KL under no_grad, its denominator, v_old for v_ref",
        check_kl,
        _needs_reference_term,
    ),
    Obligation(
        "stop-gradient",
        "nothing flows into the behaviour model, the reference, the sample or the weights",
        "missing detach",
        check_stop_gradient,
        _needs_live_inputs,
    ),
    Obligation(
        "finite",
        "no NaN and no infinity where the mathematics is finite",
        "exponentials of large numbers, 0/0, where() over an overflowing branch",
        check_finite,
    ),
    Obligation(
        "precision",
        "float32 costs no more digits than its error bound says",
        "half precision inside, sums in an unlucky order",
        check_precision,
    ),
    Obligation(
        "compiled", "torch.compile changes nothing", "graph breaks that capture data, in-place tricks", check_compiled
    ),
)
"""Every obligation, in the order in which it is checked and told."""
