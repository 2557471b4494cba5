"""The network's output taken for another prediction than declared, or time read in the other direction."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import combinations

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.derivation import Derivation
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.errors import GradcheckError
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.evidence import Evidence, explains
from gradcheck.oracle.problem import effective_case
from gradcheck.oracle.required import overall_factor

__all__ = ["other_variables"]

_KIND = {"v": "v", "epsilon": "noise", "x0": "x_0"}


def other_variables(declared: Conventions, evidence: list[Evidence]) -> Diagnosis | None:
    """A function that reads its case in other variables: the same numbers under the other declaration's names."""
    for one in declared.other_variables():
        other = one.conventions
        for derivation in _readings(other.derivation):

            def predict(e: Evidence, other: Conventions = other, derivation: Derivation = derivation) -> Tensor:
                case = effective_case(other, _renamed(e.case, declared.prediction, other.prediction))
                gradient = _raw_gradient(derivation, case)
                return overall_factor(other, case) * gradient.expand(case.output.shape)

            try:
                if explains(evidence, predict):
                    sentence = f"the implementation behaves as {one.written} says"
                    return Diagnosis(f"convention:{one.keyword}", sentence, one.written)
            except (GradcheckError, KeyError, ValueError):
                break  # this declaration asks for quantities that the case does not have
    return None


@lru_cache(maxsize=200)
def _readings(derivation: Derivation) -> tuple[Derivation, ...]:
    """Everything computed by the function itself, or the path's and the rollout's quantities read from its case."""
    stored = [s for s in (n.log_prob_old, n.mean_old) if s in derivation.definitions]
    rollouts = [chosen for size in range(len(stored) + 1) for chosen in combinations(stored, size)]
    paths = ((), (n.x_t,), (n.x_t, n.v_gt)) if n.v_gt in derivation.definitions else ((),)
    return tuple(_taken_as_given(derivation, *path, *rollout) for path in paths for rollout in rollouts)


def _taken_as_given(derivation: Derivation, *symbols: sp.Symbol) -> Derivation:
    formulas = {s: e for s, e in derivation.definitions.items() if s not in symbols}
    return replace(derivation, definitions=formulas, steps=(), after=())


def _raw_gradient(derivation: Derivation, case: Case) -> Tensor:
    """By the chain rule, since a derived gradient presumes that the noised latent is its own path's."""
    needed = derivation.inputs(derivation.raw_gradient)
    missing = [s.name for s in needed if s.name not in case.names and s != n.D]
    if missing:
        raise KeyError(missing[0])
    if "D" not in case.names:
        size = float(case.output[0].numel())
        case = Case(case.label, {**{q: getattr(case, q) for q in case.names}, "D": size})
    if "x_prev" in case.names and n.mean_old in derivation.definitions:
        # the state was sampled by the declared step; what this one makes of it is read from the state
        mean_old, std = evaluate(derivation, case, n.mean_old, n.C2, dtype=torch.float64)
        case = case.replace(noise=((case.x_prev.to(torch.float64) - mean_old) / std).to(case.output.dtype))
    (gradient,) = evaluate(derivation, case, derivation.raw_gradient, dtype=torch.float64)
    return gradient


def _renamed(case: Case, own: str, other: str) -> Case:
    """What the models put out, under the names of another prediction."""

    def name(old: str) -> str:
        for model in ("theta", "old", "ref"):
            if old == f"{_KIND[own]}_{model}":
                return f"{_KIND[other]}_{model}"
        return old

    return Case(case.label, {name(old): getattr(case, old) for old in case.names})
