r"""The step's own problem: the quantities that the derivation asks for, given or derived from what is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.derivation import Derivation
from derivations.notation import quantity
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.watching.given import Given, Problem
from gradcheck.watching.linear import coefficients, combined, solved

__all__ = ["StepProblem", "numbers_of", "step_problem"]


@dataclass
class StepProblem:
    r"""What a step is judged on.

    Attributes:
        conventions: the declaration.
        case: every given quantity of the derivation: latents as they came, (B, \*latent), numbers per sample in
            float64 on the CPU.
        derived: what was not given, and from what it was made.
        left_out: samples that cannot be judged, (B,) booleans, and ``why``.
        recovered: whether the step's noise was read off the state that was sampled.
        deviation: C2, (B,), on a reverse step.
    """

    conventions: Conventions
    case: Case
    derived: dict[str, str] = field(default_factory=dict)
    left_out: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    why: str = ""
    recovered: bool = False
    deviation: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    @cached_property
    def derivation(self) -> Derivation:
        return self.conventions.derivation

    def rows(self, keep: Tensor) -> StepProblem:
        """The same problem with some of its samples alone."""
        quantities = {
            name: value[keep.to(value.device)] if isinstance(value, Tensor) else value
            for name, value in ((name, getattr(self.case, name)) for name in self.case.names)
        }
        deviation = self.deviation[keep] if len(self.deviation) else self.deviation
        case = Case(self.case.label, quantities)
        return replace(self, case=case, left_out=self.left_out[keep], deviation=deviation)


def step_problem(conventions: Conventions, given: Given) -> tuple[StepProblem | None, list[Problem]]:
    """Make the problem; where something is missing, say what."""
    maker = _Maker(conventions, given)
    missing = [name for name in conventions.derivation.given if not maker.find(name)]
    if missing:
        return None, [(name, "nothing", maker.wanted(name)) for name in missing]
    outside = maker.outside()
    if outside:
        return None, outside
    return maker.problem(), []


class _Maker:
    """Fills the derivation's quantities one by one."""

    def __init__(self, conventions: Conventions, given: Given) -> None:
        self.conventions, self.given = conventions, given
        self.derivation = conventions.derivation
        self.latents = {given.output_name: given.output.detach(), **given.latents}
        self.samples = dict(given.samples)
        self.numbers = {**given.numbers, **{name: float(x) for name, x in conventions.fixed.items()}}
        self.derived: dict[str, str] = {}
        self.recovered = False
        self._scales: list[Tensor] = []  # C1 and C2 of the reverse step, (B,) each
        self._pending: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self.latents or name in self.samples or name in self.numbers

    def find(self, name: str) -> bool:
        """Whether a quantity is there, or follows from what is."""
        if name == "noise" and "x_prev" in self.latents and self.derivation.process == "backward":
            return self._recover_noise()  # the state that was sampled is what the loss reads
        if self.has(name):
            return True
        if name in self._pending:
            return False
        self._pending.add(name)
        try:
            return any(way(self) for way in _WAYS.get(name, ()))
        finally:
            self._pending.discard(name)

    def wanted(self, name: str) -> str:
        hints = {
            "v_old": "the behaviour model's velocity (or mean_old; or on_policy=True before the first update)",
            "noise": "the step's noise, or x_prev, the state that was sampled",
            "dt": "t_prev, or dt",
            "noise_level": "the sampler's noise level, here or in gradcheck.watch(...)",
            "clip_low": "clip_range, here or in gradcheck.watch(...)",
            "clip_high": "clip_range, here or in gradcheck.watch(...)",
        }
        forward = self.derivation.process == "forward"
        if name in ("noise", "x_0") and forward:
            return f"{quantity(name).meaning}, or v_gt"
        return hints.get(name, quantity(name).meaning)

    def outside(self) -> list[Problem]:
        """Numbers outside their domain."""
        problems: list[Problem] = []
        for name in self.derivation.given:
            row = quantity(name)
            value = self.numbers.get(name) if row.axes == "problem" and name != "D" else None
            if value is not None and not _contains(name, value):
                problems.append((name, f"{value:g}", f"a number {_domain_text(row.domain)}"))
        if "dt" in self.derivation.given and bool((self.samples["dt"] <= 0).any()):
            least = float(self.samples["dt"].min())
            problems.append(("dt", f"{least:g}", "t − t_prev > 0: sampling goes from t down to t_prev"))
        return problems

    def problem(self) -> StepProblem:
        names = self.derivation.given
        quantities: dict[str, Tensor | float] = {}
        for name in names:
            for kind in (self.latents, self.samples, self.numbers):
                if name in kind:
                    quantities[name] = kind[name]
                    break
        case = Case(self.derivation.label, quantities)
        problem = StepProblem(self.conventions, case, self.derived, recovered=self.recovered)
        if self.derivation.process != "backward":
            problem.left_out = torch.zeros(self.given.batch, dtype=torch.bool)
            return problem
        c1, c2 = (x.numpy() for x in self._scales or numbers_of(problem, n.C1, n.C2))
        left_out = ~(np.isfinite(c1) & np.isfinite(c2) & (c2 > 0))
        problem.deviation, problem.left_out = torch.from_numpy(c2), torch.from_numpy(left_out)
        if bool(left_out.any()):
            problem.why = _without_density(problem.left_out, self.samples.get("t"))
        return problem

    # ------------------------------------------------------------------------------------------- the ways

    def _sample(self, name: str, value: Tensor, source: str) -> bool:
        self.samples[name], self.derived[name] = value, source
        return True

    def _latent(self, name: str, value: Tensor, source: str) -> bool:
        self.latents[name], self.derived[name] = value, source
        return True

    def clip(self) -> bool:
        value = self.given.extra.get("clip_range")
        if value is None:
            return False
        low, high = value if isinstance(value, (tuple, list)) else (value, value)
        self.numbers |= {"clip_low": float(low), "clip_high": float(high)}
        return True

    def size(self) -> bool:
        self.numbers["D"] = float(math.prod(self.given.output.shape[1:]))
        return True

    def dt(self) -> bool:
        if not (self.find("t") and self.find("t_prev")):
            return False
        sign = -1 if self.derivation.noise_at == 0 else 1
        return self._sample("dt", sign * (self.samples["t"] - self.samples["t_prev"]), "t and t_prev")

    def t(self) -> bool:
        index, sigmas = self._index(), self._sigmas()
        if index is not None and sigmas is not None:
            return self._sample("t", sigmas[index], "step_index and sigmas")
        return False

    def t_prev(self) -> bool:
        if self.has("t") and self.has("dt"):
            return self._sample("t_prev", self.samples["t"] - self.samples["dt"], "t and dt")
        index, sigmas = self._index(), self._sigmas()
        if index is not None and sigmas is not None and int(index.max()) + 1 < len(sigmas):
            return self._sample("t_prev", sigmas[index + 1], "step_index and sigmas")
        return False

    def _index(self) -> Tensor | None:
        return None if "step_index" not in self.samples else self.samples["step_index"].to(torch.int64)

    def _sigmas(self) -> Tensor | None:
        sigmas = self.given.extra.get("sigmas")
        return None if sigmas is None else torch.as_tensor(sigmas).detach().to("cpu", torch.float64).flatten()

    def level(self) -> bool:
        """The noise level from σ_t or from the step's standard deviation: the formulas are proportional to it."""
        for name, symbol in (("sigma_t", n.sigma_t), ("C2", n.C2)):
            if name not in self.samples or not self._times():
                continue
            unit = {**self.numbers, "noise_level": 1.0}
            if symbol not in self.derivation.coefficients or self.derivation.coefficients.get(n.t_prev) is not None:
                continue  # CPS: a sine of the level
            dummy = torch.zeros(self.given.batch, 1, dtype=torch.float64, device="cpu")
            case = Case(self.derivation.label, {**unit, **self.samples, self.derivation.output.name: dummy})
            (per_unit,) = evaluate(self.derivation, case, symbol, dtype=torch.float64)
            levels = self.samples[name] / per_unit.flatten()
            level = float(levels.median())
            if bool(((levels - level).abs() <= 1e-4 * abs(level)).all()):
                self.numbers["noise_level"], self.derived["noise_level"] = level, name
                return True
        return False

    def _times(self) -> bool:
        return all(self.find(s) for s in ("t", "dt") if s in self.derivation.given)

    def _step(self) -> bool:
        """Whether all numbers of the reverse step are there."""
        names = [x for x in self.derivation.given if quantity(x).axes != "latent"]
        needed = _names_of_step(self.derivation)
        return self.derivation.process == "backward" and all(self.find(x) for x in names if x in needed)

    def _terms(self, symbol: sp.Symbol) -> dict[str, Tensor]:
        terms, self._scales = coefficients(self.derivation, symbol, self.samples, self.numbers, (n.C1, n.C2))
        return terms

    def _recover_noise(self) -> bool:
        if self.recovered:
            return True
        if not self._step():
            return self.has("noise")
        terms = self._terms(n.x_prev)
        if not all(self.find(x) for x in terms if x != "noise"):
            return self.has("noise")
        self.recovered = True
        if "noise" in self.latents:
            self.latents["given noise"] = self.latents["noise"]
        return self._latent("noise", solved(terms, "noise", self.latents, self.latents["x_prev"]), "x_prev and v_old")

    def behaviour_from_mean(self) -> bool:
        return self._from_mean("mean_old", n.mean_old, _old_name(self.derivation))

    def reference_from_mean(self) -> bool:
        return self._from_mean("mean_ref", n.mean_ref, _old_name(self.derivation).replace("old", "ref"))

    def _from_mean(self, mean: str, symbol: sp.Symbol, wanted: str) -> bool:
        if mean not in self.latents or not self._step() or symbol not in self.derivation.definitions:
            return False
        terms = self._terms(symbol)
        if not all(self.find(x) for x in terms if x != wanted):
            return False
        return self._latent(wanted, solved(terms, wanted, self.latents, self.latents[mean]), mean)

    def behaviour_on_policy(self) -> bool:
        if self.given.extra.get("on_policy") is not True:
            return False
        return self._latent(_old_name(self.derivation), self.given.output.detach(), "on_policy=True")

    def forward_noise(self) -> bool:
        return self._forward("noise")

    def forward_data(self) -> bool:
        return self._forward("x_0")

    def _forward(self, name: str) -> bool:
        """x_0 and noise from v_gt, x_t and t, as far as they are needed."""
        if self.derivation.process != "forward" or self.derivation.path != "rectified" or self.derivation.noise_at != 1:
            return False
        other = "x_0" if name == "noise" else "noise"
        one = torch.ones(self.given.batch, dtype=torch.float64, device="cpu")
        sign = 1.0 if name == "noise" else -1.0  # v_gt = noise − x_0
        if self.has("v_gt") and other in self.latents:
            return self._latent(name, combined({"v_gt": sign * one, other: one}, self.latents), f"v_gt and {other}")
        if self.has("v_gt") and self.has("x_t") and "t" in self.samples:
            t = self.samples["t"]
            own = (1 - t) if name == "noise" else -t
            return self._latent(name, combined({"x_t": one, "v_gt": own}, self.latents), "x_t, v_gt and t")
        if self.has("x_t") and other in self.latents and "t" in self.samples:
            t = self.samples["t"]
            of_noise, of_data = t, 1 - t
            by = of_noise if name == "noise" else of_data
            less = of_data if name == "noise" else of_noise
            return self._latent(
                name, combined({"x_t": one, other: -less}, self.latents, over=by), f"x_t, {other} and t"
            )
        if self.has("v_gt") and "t" not in self.derivation.given:  # only their difference counts
            zero = torch.zeros((), dtype=torch.float64, device=self.given.output.device).expand(self.given.output.shape)
            self._latent("x_0", zero, "v_gt")
            return self._latent("noise", self.latents["v_gt"], "v_gt")
        return False

    def probability(self) -> bool:
        """r = (1 + A)/2, where A is within ±1."""
        a = self.samples.get("advantage")
        if a is None:
            return False
        limit = self.conventions.adv_clip_max
        scaled = a if limit is None else a.clamp(-limit, limit) / limit
        if bool((scaled.abs() > 1).any()):
            return False
        return self._sample("reward_prob", (1 + scaled) / 2, "advantage")


_WAYS: dict[str, tuple[Callable[[_Maker], bool], ...]] = {
    "D": (_Maker.size,),
    "clip_low": (_Maker.clip,),
    "clip_high": (_Maker.clip,),
    "t": (_Maker.t,),
    "dt": (_Maker.dt,),
    "t_prev": (_Maker.t_prev,),
    "noise_level": (_Maker.level,),
    "noise": (_Maker.forward_noise,),
    "x_0": (_Maker.forward_data,),
    "reward_prob": (_Maker.probability,),
    **dict.fromkeys(("v_old", "noise_old", "x_0_old"), (_Maker.behaviour_from_mean, _Maker.behaviour_on_policy)),
    **dict.fromkeys(("v_ref", "noise_ref", "x_0_ref"), (_Maker.reference_from_mean,)),
}


@lru_cache(maxsize=100)
def _names_of_step(derivation: Derivation) -> frozenset[str]:
    """What the sampled state rests on."""
    return frozenset(s.name for s in derivation.inputs(n.x_prev))


@lru_cache(maxsize=1000)
def _contains(name: str, value: float) -> bool:
    """Whether a number is in its quantity's domain; SymPy takes its time, and the numbers of a run stay."""
    return bool(quantity(name).domain.contains(sp.Float(value)))


def _domain_text(domain: sp.Set) -> str:
    if isinstance(domain, sp.Interval):
        low = "" if domain.start == -sp.oo else f"above {domain.start}" if domain.left_open else f"from {domain.start}"
        high = "" if domain.end == sp.oo else f"below {domain.end}" if domain.right_open else f"up to {domain.end}"
        return " and ".join(x for x in (low, high) if x)
    return f"in {domain}"


def _old_name(derivation: Derivation) -> str:
    return derivation.output.name.replace("theta", "old")


def numbers_of(problem: StepProblem, *symbols: sp.Symbol) -> list[Tensor]:
    """Numbers per sample that follow from numbers alone, C1, C2, σ_t …, (B,) each."""
    case = problem.case
    batch = case.output.shape[0]
    dummy = torch.zeros(batch, 1, dtype=torch.float64, device="cpu")
    values = {
        name: x if not isinstance(x, Tensor) or x.ndim == 1 else dummy
        for name, x in ((name, getattr(case, name)) for name in case.names)
    }
    found = evaluate(problem.derivation, Case(case.label, values), *symbols, dtype=torch.float64)
    return [x.expand(batch, 1)[:, 0] for x in found]


def _without_density(bad: Tensor, t: Tensor | None) -> str:
    """What is said of samples at a time at which the step has no density."""
    where = "" if t is None else f" (t = {', '.join(f'{x:g}' for x in t[bad].unique()[:3].tolist())})"
    return f"{int(bad.sum())} of {len(bad)} samples are at a time at which the step has no density{where}"
