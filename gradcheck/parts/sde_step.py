r"""The reverse SDE step of a trainer, judged alone: mean, standard deviation, log-probability, replay and sampling.

The function is ``function(v, x_t, t, t_prev, x_prev=None, noise_level=…, generator=None)`` and returns
``(x_prev, log_prob, mean, std)``: v, x_t, x_prev and mean of shape (B, \*latent); t, t_prev and log_prob (B,); std
(B,), (B, 1, …, 1), one number, or a latent's shape.  A sampler may return ``None`` for what it does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

from derivations.steps.sde import reverse_step
from gradcheck.errors import InputError
from gradcheck.judging.check import Check, Hypothesis, Info
from gradcheck.judging.engine import Declared
from gradcheck.judging.results import Diagnosis, Judgement
from gradcheck.parts import _sde_checks as checks
from gradcheck.parts._calls import CHANGES, described, name_of, number_problem, one_of
from gradcheck.parts._sde_checks import has
from gradcheck.parts._sde_formulas import Normaliser, Reduction, ReturnedStd, Scale, SdeName
from gradcheck.parts._sde_guards import guarded_formulas
from gradcheck.parts._sde_sampling import check_sampling
from gradcheck.parts._sde_subject import SdeStepConvention, Subject, hypotheses

__all__ = ["SdeStepConvention", "judge_sde_step", "sde_step_part"]

_DTYPES = (None, "float64", "float32", "bfloat16", "float16")


def judge_sde_step(
    function: Callable[..., Any],
    *,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    **declared: Any,
) -> Judgement:
    """Judge a reverse step.

    Args:
        function: see the module.
        seed: of the problems.
        expected_failures: obligation id → reason.
        declared: fields of :class:`SdeStepConvention`.

    Raises:
        InputError: an unknown convention or a value out of its domain; all mistakes are listed.
        AdapterError: the function raises.
    """
    return sde_step_part(function, seed=seed, expected_failures=expected_failures, **declared).judge()


def sde_step_part(
    function: Callable[..., Any],
    *,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    **declared: Any,
) -> Declared[Subject]:
    """A reverse step and its declaration, checked and not yet called; arguments as :func:`judge_sde_step`'s."""
    known = SdeStepConvention.__dataclass_fields__
    unknown = [
        (k, repr(v), f"a convention of a step: {', '.join(known)}") for k, v in declared.items() if k not in known
    ]
    if unknown:
        raise InputError(*unknown)
    if declared.get("schedule") is not None:
        declared["schedule"] = tuple(float(x) for x in declared["schedule"])
    if "latents" in declared:
        declared["latents"] = tuple(tuple(shape) for shape in declared["latents"])
    convention = SdeStepConvention(**declared)
    problems = _problems(convention)
    if problems:
        raise InputError(*problems)
    subject = Subject(function, name_of(function), convention, seed, hands_level=convention.noise_level is None)
    info = Info(
        subject=subject.name,
        declaration=described(convention),
        reference=reverse_step(convention.sde).reference,
        seed=seed,
        dtype=convention.working_dtype or "float64",
        expected_failures=expected_failures or {},
    )
    return Declared(subject, CHECKS, _hypotheses, info, _as_it_is_called)


def _hypotheses(subject: Subject) -> Iterator[Hypothesis[Subject]]:
    """Other declarations and named mistakes, then those whose number is read off what the function returns."""
    yield from hypotheses(subject)
    for name, sentence, wrong in guarded_formulas(subject):
        yield Hypothesis(name, sentence, replace(subject, wrong=wrong))


def _as_it_is_called(subject: Subject) -> Subject:
    """The subject with what only calls can tell: what it does not return, and when it takes a generator."""
    subject = replace(subject, hands_generator=checks.taken_generator(subject))
    return replace(subject, lacks=checks.lacking(subject))


def _problems(c: SdeStepConvention) -> list[tuple[str, str, str]]:
    problems = [
        *one_of("sde", c.sde, *get_args(SdeName)),
        *one_of("returns_std", c.returns_std, *get_args(ReturnedStd)),
        *one_of("log_prob_reduction", c.log_prob_reduction, *get_args(Reduction)),
        *one_of("log_prob_scale", c.log_prob_scale, *get_args(Scale)),
        *one_of("log_prob_normaliser", c.log_prob_normaliser, *get_args(Normaliser)),
        *_at_one_problem(c.at_one),
        *one_of("working_dtype", c.working_dtype, *_DTYPES),
        *number_problem("sigma_min", c.sigma_min, 0, 100),
    ]
    if c.noise_level is not None:
        problems += number_problem("noise_level", c.noise_level, 0, 1 if c.sde == "cps" else 100)
    if c.sde != "wan" and c.sigma_min:
        problems.append(("sigma_min", repr(c.sigma_min), f"0 with sde={c.sde!r}, which has none"))
    if c.sde == "cps" and c.returns_std == "sigma":
        problems.append(("returns_std", "'sigma'", "'step' with sde='cps', which has no σ_t"))
    if not c.latents or any(not shape or min(shape) < 1 for shape in c.latents):
        problems.append(("latents", repr(c.latents), "one or more shapes of one or more axes"))
    return problems


def _at_one_problem(at_one: Any) -> list[tuple[str, str, str]]:
    number = isinstance(at_one, (int, float)) and not isinstance(at_one, bool) and 0 < at_one < 1
    if number or (isinstance(at_one, str) and at_one in ("denominator", "next", "skip")):
        return []
    return [("at_one", repr(at_one), "'denominator', 'next', 'skip', or a number between 0 and 1")]


def _same_call(subject: Subject) -> tuple[Any, ...]:
    """What decides how the function is called, and the numbers of its requirement."""
    c = subject.convention
    return c.sde, c.noise_level, c.sigma_min, c.working_dtype


CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "mean",
        "the mean is the declared reverse step's",
        "a missing score correction, the sign of Δt, exchanged or shared times, broadcasting over the latent's axes",
        checks.check_mean,
        has("mean"),
    ),
    Check(
        "std",
        "the standard deviation is the step's, or σ_t where that is declared",
        "√Δt twice or not at all, the variance, one SDE's with another's",
        checks.check_std,
        has("std"),
    ),
    Check(
        "slope",
        "∂mean/∂v = −C1",
        "a mean without a graph, or with a wrong gradient though its value is right",
        checks.check_slope,
        direct=checks.no_graph,
    ),
    Check(
        "log-prob",
        "the log-probability of a given x_prev is the declared density's, its normaliser included",
        "sum for mean, σ_t for the standard deviation, a wrong normaliser",
        checks.check_log_prob,
        has("log_prob"),
    ),
    Check(
        "log-ratio",
        "the difference of two log-probabilities of the same x_prev is the declared one",
        "what remains of a wrong log-probability in a ratio, where its normaliser has cancelled",
        checks.check_log_ratio,
        has("log_prob"),
    ),
    Check(
        "log-prob-gradient",
        "the log-probability's gradient in v is 2λ·(−C1)·(x_prev − mean)",
        "a detached mean, a log-probability under no_grad",
        checks.check_log_prob_gradient,
        has("log_prob", graph=True),
        checks.no_graph,
    ),
    Check(
        "replay",
        "given the x_prev that it sampled, it returns that x_prev and the same log-probability: the ratio is 1",
        "a state cast after its log-probability was computed, another formula for replay",
        checks.check_replay,
        has("log_prob"),
        checks.replay_cause,
    ),
    Check(
        "sampling",
        "the sampled states are normal, with the declared mean and standard deviation, independently",
        "noise of a wrong size, shared noise, none at all",
        check_sampling,
        depends=lambda s: (s.formulas.mean, s.formulas.std, s.formulas.times, s.ignored, _same_call(s)),
    ),
    Check(
        "generator",
        "the same generator gives the same sample",
        "noise from the global generator, which makes a rollout irreproducible",
        checks.check_generator,
        direct=lambda subject: Diagnosis(
            "generator-ignored", "the noise does not come from the generator that is handed in"
        ),
        depends=_same_call,
        applies=lambda s: "the function takes no generator" if s.hands_generator == "never" else None,
    ),
    Check(
        "determinism",
        "given x_prev, two calls give the same bits",
        "a random number where nothing is sampled, a state that a call leaves behind",
        checks.check_determinism,
        direct=lambda s: CHANGES,
        depends=_same_call,
    ),
    Check(
        "time-grid",
        "the schedule decreases strictly to 0, and the step is finite and right on each of its steps",
        "t = 1 (where σ_t has a pole), t_prev = 0",
        checks.check_time_grid,
    ),
)
"""In reading order."""
