r"""Whether an implementation behaves like a function: twice the same, nothing changed, no graph where none may be."""

from __future__ import annotations

import pickle
import random
import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.judging.adapter import adapter_case
from gradcheck.judging.isolation.limits import watched
from gradcheck.judging.isolation.state import JUDGED
from gradcheck.judging.isolation.tracing import line_that_changes
from gradcheck.judging.results import Outcome
from gradcheck.oracle.checks.twice import same_twice
from gradcheck.oracle.judge import (
    Judge,
    Look,
    compare_over,
    first_failure,
)


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
