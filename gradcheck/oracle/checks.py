r"""The checks behind the obligations: does it behave like a function, is its gradient the derived one, where not."""

from __future__ import annotations

import math
import pickle
import random
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.devices import dtype_name
from gradcheck.judging.adapter import AdapterError, adapter_case
from gradcheck.judging.isolation.limits import watched
from gradcheck.judging.isolation.state import JUDGED
from gradcheck.judging.isolation.tracing import line_that_changes
from gradcheck.judging.results import Outcome
from gradcheck.oracle.arrangement import in_units, unit
from gradcheck.oracle.drawn import made
from gradcheck.oracle.judge import (
    Judge,
    Look,
    compare_over,
    first_failure,
    gradient_on,
    look,
    look_at_gradient,
    together,
)
from gradcheck.oracle.pace import Pace
from gradcheck.oracle.required import (
    Required,
    averaged_over,
    effective_case,
    overall_factor,
    per_sample,
    required_of,
    working_dtype,
)
from gradcheck.oracle.roughness import roughness
from gradcheck.problems.building import Spec
from gradcheck.problems.drawing import AdvantageRegime, NoiseRegime
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import judgeable, required_gradients, value_scale

# ------------------------------------------------------------------------------- behaving like a function


def check_determinism(judge: Judge) -> Outcome:
    calls = 0

    def wrong(case: Case) -> str:
        nonlocal calls
        calls += 1
        first = judge.observe(case)
        with torch.random.fork_rng(devices=[]):  # so that a loss that draws random numbers shows it
            torch.manual_seed(20_000 + calls)
            second = judge.observe(case)
        for what, a, b in (("gradients", first.gradient, second.gradient), ("losses", first.loss, second.loss)):
            if not _bits_equal(a, b):
                return f"two calls on the same case give {what} that differ by {float((a - b).abs().max()):.3g}"
        return ""

    return first_failure(judge, judge.specs(), wrong, most=3)


def _bits_equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def check_inputs_untouched(judge: Judge) -> Outcome:
    """Settings that decide how everything after the call is computed cost the verdict, others this obligation."""
    spoils: list[str] = []

    def wrong(case: Case) -> str:
        seen = judge.observe(case)
        if seen.changed:
            return f"the call changes {', '.join(seen.changed)} in place"
        if seen.left:  # a first call may import something, which changes settings once
            again = {left.name for left in judge.observe(case).left}
            left = [one for one in seen.left if one.name in again]
            spoils.extend(one.words + _line(judge, case, one.name) for one in left if one.name not in JUDGED)
            told = [one.words + _line(judge, case, one.name) for one in left if one.name in JUDGED]
            if told:
                return f"the call {'; '.join(told)}"
        return _seeds(judge, case)

    outcome = first_failure(judge, judge.specs(), wrong, most=3)
    if spoils:
        return Outcome("unjudged", outcome.examples, detail=f"the call {'; '.join(dict.fromkeys(spoils))}")
    return outcome


def _line(judge: Judge, case: Case, setting: str) -> str:
    if setting == "running threads":
        return ""  # it says where it is
    if not watched():
        return ""  # looking at each line has hung a long-lived process; one that judges this alone has a time limit
    return line_that_changes(setting, lambda: judge.adapter.function(adapter_case(case, judge.device)))


def _seeds(judge: Judge, case: Case) -> str:
    """Whether two calls leave Python's or NumPy's generator in one state, though they found it in two."""
    kept, numpy_kept = random.getstate(), np.random.get_state()
    after = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        judge.observe(case)
        after.append((random.getstate(), pickle.dumps(np.random.get_state())))
    random.setstate(kept)
    np.random.set_state(numpy_kept)
    names = [name for name, a, b in zip(("Python's", "NumPy's"), *after, strict=True) if a == b]
    return f"the call seeds {' and '.join(names)} global generator" if names else ""


def check_finite(judge: Judge) -> Outcome:
    def wrong(case: Case) -> str:
        wanted = judge.required(case)
        observed = judge.observe(case).gradient
        bad = ~observed.isfinite() & judgeable(wanted.gradient, wanted.scale, wanted.dtype)
        if not bool(bad.any()):
            return ""
        at = tuple(int(i) for i in bad.nonzero()[0])
        return f"the gradient is {float(observed[at])} at {at}, where {float(wanted.gradient[at]):.6g} is required"

    policies = ("off", "far") if Piece.RATIO in judge.conventions.derivation.pieces else ("off",)
    every = (judge.specs(policy=policy, time="mixed", advantage="mixed") for policy in policies)
    outcome = first_failure(judge, chain.from_iterable(every), wrong)
    if outcome.status == "failed" or not _has_margin(judge):
        return outcome
    again = [outcome]
    for dtype in dict.fromkeys((judge.dtype, torch.float32)):
        few = replace(judge, dtype=dtype, max_examples=_few(judge))
        specs = few.specs(policy="off", advantage="typical", time="middle", margin=_farthest(dtype))
        again.append(first_failure(few, specs, wrong))
    return together(again)


def _farthest(dtype: torch.dtype) -> str:
    """Margins beyond a precision's exponentials, which end at e^±88 to e^±103 in float32, e^±709 in float64."""
    return "beyond" if dtype == torch.float64 else "far"


def _few(judge: Judge) -> int:
    """How many problems a regime gets that is visited besides the ordinary ones."""
    return min(judge.max_examples, 2)


def _has_margin(judge: Judge) -> bool:
    """Whether something of the loss stands in a sigmoid, or in an exponential that is no ratio."""
    return bool({"partner_gap", "group_gap", "reward"} & set(judge.conventions.derivation.canonical.given))


# --------------------------------------------------------------------------------- the gradient itself


def check_gradient(judge: Judge) -> Outcome:
    """Where rounding leaves nothing of the gradient itself, the implementation cannot be judged at all."""
    outcome = gradient_on(judge, policy="mixed", time="middle")
    if outcome.status == "skipped":
        return replace(outcome, status="unjudged")
    if outcome.status == "passed":
        outcome = together([outcome, *_rare(judge)])
    return _systematic(judge) or outcome if outcome.status == "passed" else outcome


def _rare(judge: Judge) -> Iterator[Outcome]:
    """Problems of regimes that no mixed batch holds, each in several of them at once."""
    given = set(judge.conventions.derivation.canonical.given)
    own = "noise_level" in given and "noise_level" not in judge.conventions.fixed
    noises: tuple[NoiseRegime, ...] = ("full", "tiny") if own else ("typical", "typical")
    advantages = {Piece.ADVANTAGE, Piece.OPTIMALITY} & judge.conventions.derivation.pieces
    rare: tuple[AdvantageRegime, ...] = ("good", "bad", "unit", "equal", "tiny", "huge") if advantages else ("typical",)
    for i, advantage in enumerate(rare):
        batch, latent = ((4, (3, 5)), (3, (2, 7)), (5, (2, 1, 3)))[i % 3]
        spec = Spec(
            judge.batch or batch,
            judge.latent or latent,
            seed=judge.seed * 1_000_003 + 77 + i,
            policy="off",
            advantage=advantage,
            time=("same", "between", "pairs")[i % 3],
            noise=noises[i % 2] if i < 4 else "typical",
        )
        yield compare_over(judge, iter([spec]), lambda case: look_at_gradient(judge, case))
    if _has_margin(judge):
        few = replace(judge, max_examples=_few(judge))
        for margin in ("wide", _farthest(judge.dtype)):
            yield gradient_on(few, policy="off", advantage="typical", time="middle", margin=margin)


_MOST_ROUGH = 3


def _systematic(judge: Judge) -> Outcome | None:
    """An error that a declared lower precision allows for, and that is not its rounding; ``None`` if there is none."""
    if judge.conventions.working_dtype is None:
        return None
    specs = judge.specs(policy="off", advantage="typical", time="middle")
    for spec, count in zip(specs, range(1, _MOST_ROUGH + 1), strict=False):
        case = judge.case(spec)
        dtype = working_dtype(judge.conventions, case)
        if dtype == case.output.dtype:
            return None  # the cases are of that precision themselves
        found = roughness(judge, case, dtype)
        if bool(found.is_systematic.any()):
            name = dtype_name(dtype)
            detail = (
                f"off by a relative {found.relative:.2g} that stays when the inputs move: "
                f"not {name}'s rounding, which would be drawn anew"
            )
            return Outcome("failed", count, math.inf, detail, spec=spec)
    return None


def as_computed(judge: Judge) -> Judge:
    """The same judge without a declared precision: what its cases' own precision demands."""
    return replace(judge, conventions=replace(judge.conventions, working_dtype=None))


def check_equivalence(judge: Judge) -> Outcome:
    def one(case: Case) -> Look:
        required, scale, dtype = squared_distance_gradient(judge, case)
        return look(judge.observe(case).gradient, required, scale, dtype)

    output = judge.conventions.derivation.output.name
    meaning = f"required is the gradient of weight · ‖{output} − sg(target)‖², by autograd"
    return compare_over(judge, judge.specs(policy="mixed", time="middle"), one, meaning=meaning)


def squared_distance_gradient(judge: Judge, case: Case) -> tuple[Tensor, Tensor, torch.dtype]:
    """Autograd of the equivalent loss, its error scale, and the precision that this is for."""
    return judge.made(_squared_distance_gradient, case)


def _squared_distance_gradient(conventions: Conventions, case: Case) -> tuple[Tensor, Tensor, torch.dtype]:
    effective, factor = effective_case(conventions, case), overall_factor(conventions, case)
    wanted = made(required_of, conventions, case)
    _, _, required, pull, _ = required_gradients(conventions.derivation, effective, False, wanted.dtype)
    scale = wanted.scale + abs(factor) * (pull + required.abs())  # the implementation's own rounding, and that of this
    scale = torch.where(wanted.undecided, torch.inf, scale)  # 'clip' judges these
    return factor * required, scale, wanted.dtype


def check_value(judge: Judge) -> Outcome:
    def one(case: Case) -> Look:
        required, scale, dtype = stated_value(judge, case)
        return look(judge.observe(case).loss.reshape(-1), required, scale, dtype)

    meaning = "observed is the loss that was returned, required the stated one"
    return compare_over(judge, judge.specs(policy="mixed", time="middle"), one, meaning=meaning)


def stated_value(judge: Judge, case: Case) -> tuple[Tensor, Tensor, torch.dtype]:
    """The loss that the declaration states, reduced as declared, its error scale, and the precision of that."""
    return judge.made(_stated_value, case)


def _stated_value(conventions: Conventions, case: Case) -> tuple[Tensor, Tensor, torch.dtype]:
    derivation = conventions.derivation
    effective, dtype = effective_case(conventions, case), working_dtype(conventions, case)
    (loss,) = evaluate(derivation, effective, derivation.loss, dtype=torch.float64)
    scale = value_scale(derivation, effective, derivation.inline(derivation.loss), dtype)
    per_sample, error = loss.reshape(-1), (scale + 2 * loss.abs()).reshape(-1)
    if conventions.batch_reduction == "none":
        required, bound = per_sample, error
    else:
        count = len(per_sample) if conventions.batch_reduction == "mean" else 1
        required = (per_sample.sum() / count)[None]
        bound = ((error + len(per_sample) * per_sample.abs()).sum() / count)[None]
    factor = conventions.factor * conventions.policy_factor  # the effective case has the KL's weight over the latter
    return factor * required, abs(factor) * bound, dtype


def check_on_policy(judge: Judge) -> Outcome:
    outcome = gradient_on(judge, policy="on-policy", time="middle")
    if outcome.status == "failed" or Piece.ANCHOR not in judge.conventions.derivation.canonical.pieces:
        return outcome
    return together([outcome, gradient_on(replace(judge, max_examples=_few(judge)), policy="start", time="middle")])


def check_clip(judge: Judge) -> Outcome:
    outcomes = [gradient_on(judge, policy=policy, time="middle") for policy in ("inside", "outside", "far")]
    if Piece.RATIO in judge.conventions.derivation.pieces:
        few = replace(judge, max_examples=min(judge.max_examples, 4))
        outcomes.append(gradient_on(few, policy="ratios", advantage="typical", time="middle"))
        few = replace(judge, max_examples=_few(judge))
        outcomes.append(gradient_on(few, policy="huge-ratios", advantage="typical", time="middle"))
    return together(outcomes)


def check_zero_advantage(judge: Judge) -> Outcome:
    return gradient_on(judge, policy="off", advantage="zero", time="middle")


def check_kl(judge: Judge) -> Outcome:
    """The reference term alone: no advantage, so that nothing else is left of a policy gradient."""
    outcome = gradient_on(judge, policy="near", advantage="zero", time="middle")
    few = replace(judge, max_examples=_few(judge))
    return together([outcome, gradient_on(few, policy="start", advantage="zero", time="middle")])


def check_edge_times(judge: Judge) -> Outcome:
    return together([gradient_on(judge, time=time) for time in ("near-data", "near-noise")])


_BATCHES = ((9, (3,)), (22, (2, 2)), (70, (3,)), (150, (2,)))
"""Batches that are no multiples of the chunks in which code goes through them: of 6, 8, 16, 32, 64, 128 samples."""

_LATENTS = ((2, (283,)), (2, (3, 31, 29)), (1, (20011,)), (1, (151, 139)), (1, (4, 97, 101)), (1, (5, 3, 43, 37)))
"""Latents of hundreds to tens of thousands of numbers, in every rank, of no powers of two."""


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
        (3, (4, 1, 2, 3)),
    )
    large = (*_BATCHES, *_LATENTS) if judge.latent is None else ()

    def specs() -> Iterator[Spec]:
        for i, (batch, latent) in enumerate(shapes):
            yield Spec(batch, latent, seed=judge.seed + i, time="middle")
        for i, (batch, latent) in enumerate(large):
            # every sample has a gradient, so that none can be left out unseen
            yield Spec(batch, latent, judge.seed + 100 + i, policy="off", advantage="typical", time="middle")

    refused: list[AdapterError] = []
    slow: list[float] = []

    def in_time() -> Iterator[Spec]:
        """Without those on which a call would take more time than there is, by how long smaller ones took."""
        pace = Pace(judge)
        for spec in specs():
            expected = pace.expected(spec)
            if expected <= judge.adapter.timeout / 2:
                yield spec
            else:
                slow.append(expected)

    def one(case: Case) -> Look:
        try:
            return look_at_gradient(judge, case, _strided(case))
        except AdapterError as error:
            contiguous = look_at_gradient(judge, case)
            refused.append(error)
            return contiguous

    outcome = compare_over(judge, in_time(), one)
    notes = [outcome.note]
    if refused:
        notes.append(f"not judged on latents that are not contiguous, which it refuses: {refused[0]}")
    if slow:
        left = f"{len(slow)} of {len(large)} large shapes"
        notes.append(f"not judged on {left}, on which a call would take about {max(slow):.2g} s")
    return replace(outcome, note="; ".join(x for x in notes if x))


def _strided(case: Case) -> Case:
    """The same numbers in memory that is not contiguous: a slice of a transposed latent."""

    def spread(x: Tensor) -> Tensor:
        transposed = x.detach().transpose(0, -1)
        return torch.stack([transposed, transposed], -1)[..., 0].transpose(0, -1)

    latents = {n: spread(getattr(case, n)) for n in case.names if _is_latent(case, n)}
    return case.replace(**latents)


def _is_latent(case: Case, name: str) -> bool:
    value = getattr(case, name)
    return isinstance(value, Tensor) and value.shape == case.output.shape and value.ndim > 1


# ------------------------------------------------------------------------------------- across the batch


def two_roundings(wanted: Required, observed: Tensor) -> Tensor:
    """The error scale of two evaluations of the same gradient, by the bound of the declared loss."""
    size = observed.abs().to(torch.float64)
    lost = 0.0  # by each where it is rounded to what the network puts out
    if wanted.output_dtype is not None:
        lost = wanted.output_unit / (THRESHOLD * unit_roundoff(wanted.dtype))
    return 2 * wanted.scale + (4 + 2 * lost) * size


_SWAYS = 6
_SWAY = 4.0
_REACH = 8.0


def own_rounding(judge: Judge, case: Case) -> Tensor:
    r"""The error scale of two evaluations of a gradient of which nothing is known: what it shows by itself.

    The latents, and the other numbers that are no times, are moved by up to ``_SWAY`` units of roundoff, ``_SWAYS``
    times.  That draws every rounding behind them anew, so that the gradient moves by as much as two evaluations of it
    differ (in the order of a sum, or in the last bit of an exponential), and by what its condition makes of the inputs'
    own rounding.  Of a few draws the largest may fall short of what can happen; ``_REACH`` times the largest move of
    any component of the sample does not, as the moves of a sample's components have mostly one cause, its coefficient.
    A dependence on other samples is no rounding: it is larger by many orders of magnitude, and stays a failure.

    Returns:
        (B, 1, …, 1), in units of u; 0 for code that refuses a moved case, which a look-up of its numbers may do.
    """
    unit = unit_roundoff(working_dtype(judge.conventions, case))
    generator = torch.Generator().manual_seed(judge.seed)
    first = judge.observe(case).gradient.to(torch.float64)
    moved = torch.zeros_like(first)
    for _ in range(_SWAYS):
        near = case.replace(**{name: _swayed(getattr(case, name), unit, generator) for name in _swaying(case)})
        try:
            moved = torch.maximum(moved, (judge.observe(near).gradient.to(torch.float64) - first).abs())
        except AdapterError:
            return torch.zeros_like(first)[:, :1]
    most = moved.flatten(1).amax(1).nan_to_num(0.0, 0.0, 0.0)
    return _REACH / unit * most.reshape(-1, *(1,) * (first.ndim - 1))


_EXACT = {
    "sigmas",
    "t",
    "t_prev",
    "dt",
    "timestep",
    "step_index",
    "alpha_bar",
    "alpha_bar_prev",
    "preference",
    "window",
    "mask",
}
"""What code looks up or compares with, so that its numbers must stay."""


def _swaying(case: Case) -> list[str]:
    return [n for n in per_sample(case) if n not in _EXACT and getattr(case, n).is_floating_point()]


def _swayed(x: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    sway = 1 + _SWAY * unit * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)
    return (x.detach().to(torch.float64) * sway.to(x.device)).to(x.dtype)


def of_two(judge: Judge, case: Case, wanted: Required, observed: Tensor) -> Tensor:
    """The error scale of two evaluations of a gradient, by the declared loss's bound or by what it shows itself."""
    return torch.maximum(two_roundings(wanted, observed), own_rounding(judge, case))


def same_twice(
    judge: Judge, case: Case, first: Tensor, second: Tensor, rows: list[int], wanted: Required | None = None
) -> Look:
    """Compare two gradients that are one, of which nothing else is known: it may be another loss than the declared one.

    Args:
        judge: the implementation.
        case: that ``first`` is the gradient on.
        first: of all of its samples.
        second: of the samples in ``rows``, in that order.
        rows: which they are.
        wanted: what is required on the case, where it is known.
    """
    wanted = wanted or judge.required(case)
    found = look(second, first[rows], two_roundings(wanted, first)[rows], wanted.dtype)
    if found.holds or not bool(second.isfinite().all()):
        return found
    return look(second, first[rows], of_two(judge, case, wanted, first)[rows], wanted.dtype)


def companies(batch: int, size: int = 1) -> tuple[list[int], list[int]]:
    """The first sample, or unit of so many, among some of the others, and among the rest of them."""
    half = (batch // size + 1) // 2
    return in_units([*range(half)], size), in_units([0, *range(half, batch // size)], size)


def check_sample_independence(judge: Judge) -> Outcome:
    """The first sample in two companies, which share nothing but the time grid."""

    def one(case: Case) -> Look:
        first, second = (rows_of(case, rows) for rows in companies(len(case.output), judge.unit))
        before, after = (judge.observe(c).gradient for c in (first, second))
        alike = share_of(judge, second, first)
        wanted = judge.made(_in_first_company, case)
        return same_twice(judge, first, before, after[: judge.unit] * alike, [*range(judge.unit)], wanted)

    odd = (judge.unit * (2 * max(s.batch, 3) - 1) for s in judge.specs())
    specs = (replace(s, batch=n) for s, n in zip(judge.specs(policy="off", time="middle"), odd, strict=True))
    meaning = (
        "both are your gradient for the same sample: observed beside other samples than required"
        " (the batch is as large in both)"
    )
    return compare_over(judge, specs, one, at_least=3 * judge.unit, meaning=meaning)


def _in_first_company(conventions: Conventions, case: Case) -> Required:
    """What is required of the first company alone."""
    rows, _ = companies(len(case.output), unit(conventions))
    return required_of(conventions, rows_of(case, rows))


def rows_of(case: Case, rows: list[int]) -> Case:
    """Some samples of a case, as a case of their own."""
    return case.replace(**{n: getattr(case, n)[rows].detach() for n in per_sample(case)})


def check_permutation(judge: Judge) -> Outcome:
    def one(case: Case) -> Look:
        order = rolled(len(case.output), judge.unit)
        before = judge.observe(case).gradient
        after = judge.observe(rows_of(case, order)).gradient
        return same_twice(judge, case, before, after, order)

    specs = (replace(s, batch=judge.unit * max(s.batch, 2)) for s in judge.specs(policy="off", time="middle"))
    meaning = (
        "both are your gradient for the same sample: observed with the last sample of the batch put first,"
        " required in the first order"
    )
    return compare_over(judge, specs, one, at_least=2 * judge.unit, meaning=meaning)


def rolled(batch: int, size: int = 1) -> list[int]:
    """The batch's order with the last sample, or unit of so many, first."""
    return in_units([batch // size - 1, *range(batch // size - 1)], size)


def check_micro_batching(judge: Judge) -> Outcome:
    def one(case: Case) -> Look:
        whole = judge.observe(case).gradient
        parts = [judge.observe(rows_of(case, rows)).gradient * share for rows, share in halves(judge, case)]
        return same_twice(judge, case, whole, torch.cat(parts), list(range(len(whole))))

    specs = (replace(s, batch=judge.unit * max(s.batch, 3)) for s in judge.specs(policy="off", time="middle"))
    share = ", times its share of the batch" if judge.conventions.batch_reduction == "mean" else ""
    meaning = (
        "both are your gradient for the same sample: observed with the batch in two halves, each judged by itself"
        f"{share}; required with the whole batch at once"
    )
    return compare_over(judge, specs, one, at_least=2 * judge.unit, meaning=meaning)


def halves(judge: Judge, case: Case) -> list[tuple[list[int], float]]:
    """The two halves of a batch, and what each one's gradient must be multiplied by."""
    batch = len(case.output)
    half = judge.unit * (batch // judge.unit // 2)
    parts = [list(range(half)), list(range(half, batch))]
    return [(rows, share_of(judge, rows_of(case, rows), case)) for rows in parts]


def share_of(judge: Judge, part: Case, whole: Case) -> float:
    """How many samples the one's mean is over for each of the other's; 1 where a batch is summed."""
    if judge.conventions.batch_reduction != "mean":
        return 1.0
    return averaged_over(judge.conventions, part) / averaged_over(judge.conventions, whole)


# ------------------------------------------------------------------------------ graph, precision, compiler


DETACHED = (
    "v_old",
    "v_ref",
    "noise_old",
    "noise_ref",
    "x_0_old",
    "x_0_ref",
    "x_prev",
    "mean_old",
    "mean_ref",
    "log_prob_old",
    "w_plus",
    "w_minus",
)
"""What networks computed, and a loss must not differentiate.  Rewards, and what is made of them, are data: no graph
reaches them whoever hands them over."""


def check_stop_gradient(judge: Judge) -> Outcome:
    def wrong(case: Case) -> str:
        leaks = [name for name in judge.observe(case, watch_leaks=True).leaked if name in DETACHED]
        return f"a gradient flows into {', '.join(leaks)}" if leaks else ""

    return first_failure(judge, judge.specs(policy="off", time="middle"), wrong, most=3)


_COMPILING = 10


def check_compiled(judge: Judge) -> Outcome:
    torch.compiler.reset()
    specs = [next(iter(judge.specs(policy="off", time="middle")))]
    meaning = "both are your gradient: observed under torch.compile, required without it"

    def one(case: Case) -> Look:
        plain, found = judge.observe(case).gradient, compiled.observe(case).gradient
        return same_twice(judge, case, plain, found, list(range(len(plain))))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler warns about itself, which must not count as the user's
        function = torch.compile(judge.adapter.function, dynamic=False)
        patient = _COMPILING * judge.adapter.timeout  # the first call compiles
        compiled = replace(judge, adapter=replace(judge.adapter, function=function, timeout=patient))
        return compare_over(judge, iter(specs), one, meaning=meaning)
