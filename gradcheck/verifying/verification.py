r"""The main job: prove every derivation, then check it on random problems, and say what was seen."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import sympy as sp
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from derivations.derivation import Derivation, Proof, StepResult, Theorem
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.steps.paths import PARAMETERISATIONS
from derivations.steps.sde import REVERSE_STEPS
from derivations.theorems import THEOREMS
from gradcheck.catalogue import Entry, entries
from gradcheck.devices import DTYPES, Device, DeviceChoice, DtypeName, devices, own_modes
from gradcheck.errors import InputError
from gradcheck.forking import may_fork
from gradcheck.problems.building import Spec, build
from gradcheck.problems.strategies import specs
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import Comparison, compare_entry
from gradcheck.verifying import networks
from gradcheck.verifying.sharing import Shared

__all__ = ["Check", "NetworkCheck", "Report", "Verification", "check_random", "verify"]


@dataclass(frozen=True)
class Check:
    """One entry on random problems in one precision on one device.

    Attributes:
        examples: problems drawn.
        gradient, equivalence: the largest test ratio of each comparison; at most :data:`THRESHOLD` passes.
        judged: mean fraction of components on which the precision allows a judgement.
        resolution: the smallest f for which a gradient wrong by the factor 1 + f throughout would have been refused.
        failure: the smallest problem that failed, which comparison, and its figures.
    """

    dtype: DtypeName
    device: Device
    examples: int
    gradient: float
    equivalence: float
    judged: float
    resolution: float
    seconds: float
    failure: tuple[Spec, str, Comparison] | None = None

    @property
    def ratio(self) -> float:
        return max(self.gradient, self.equivalence)


@dataclass(frozen=True)
class NetworkCheck:
    """One entry at the parameters of one network."""

    network: str
    dtype: DtypeName
    device: Device
    ratio: float
    holds: bool
    worst: str


@dataclass(frozen=True)
class Verification:
    """What became of one entry."""

    entry: Entry
    proof: Proof
    checks: tuple[Check, ...] = ()
    networks: tuple[NetworkCheck, ...] = ()

    @property
    def holds(self) -> bool:
        return self.proof.holds and not any(c.failure for c in self.checks) and all(n.holds for n in self.networks)

    @property
    def ratio(self) -> float:
        """Largest test ratio of all random checks."""
        return max((c.ratio for c in self.checks), default=0.0)


@dataclass(frozen=True)
class Report:
    """Everything that one run saw."""

    theorems: tuple[Proof, ...]
    results: tuple[Verification, ...]
    devices: tuple[str, ...]
    seed: int
    seconds: float
    without_networks: str | None = None
    threshold: float = field(default=THRESHOLD)

    @property
    def holds(self) -> bool:
        return all(p.holds for p in self.theorems) and all(r.holds for r in self.results)


class _RefusedError(AssertionError):
    def __init__(self, spec: Spec, which: str, comparison: Comparison) -> None:
        super().__init__(which)
        self.found = (spec, which, comparison)


def check_random(entry: Entry, dtype: DtypeName, device: Device, max_examples: int, base_seed: int) -> Check:
    """Check one entry on random problems, and shrink the first that fails."""
    worst = {"gradient": 0.0, "equivalence": 0.0}
    judged: list[float] = []
    resolution = math.inf
    start = time.perf_counter()

    @seed(base_seed)
    @settings(
        max_examples=max_examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
    )
    @given(specs(entry.derivation))
    def run(spec: Spec) -> None:
        nonlocal resolution
        result = compare_entry(entry, build(entry.derivation, spec, DTYPES[dtype], device))
        judged.append(result.gradient.judged)
        resolution = min(resolution, result.gradient.resolution)
        for which in worst:
            comparison = getattr(result, which)
            worst[which] = max(worst[which], comparison.ratio)
            if not comparison.holds:
                raise _RefusedError(spec, which, comparison)

    failure = None
    try:
        run()
    except _RefusedError as refused:
        failure = refused.found
    return Check(
        dtype=dtype,
        device=device,
        examples=len(judged),
        gradient=worst["gradient"],
        equivalence=worst["equivalence"],
        judged=sum(judged) / len(judged),
        resolution=resolution,
        seconds=time.perf_counter() - start,
        failure=failure,
    )


@own_modes()
def verify(
    *names: str,
    device: DeviceChoice = "all",
    dtypes: Sequence[DtypeName] = ("float64", "float32"),
    max_examples: int = 20,
    seed: int = 0,
    with_networks: bool = True,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Prove derivations and check them on random problems and on real networks.

    Args:
        names: algorithms (``flow_grpo``) or variants (``flow_grpo[mean]``); none means all.
        device: ``cpu``, ``cuda`` or ``all``.
        dtypes: any of ``float64`` and ``float32``.
        max_examples: random problems for each entry, precision and device.
        seed: of everything random.
        with_networks: also check at the parameters of diffusers' networks, where they are installed.
        jobs: how many processes share the work, where this one may be forked and no GPU takes part; what is found is
            the same for any number.
        progress: called with a line for each thing done.

    Raises:
        InputError: an unknown name, device or dtype, or fewer than one example.
    """
    start = time.perf_counter()
    chosen, where = entries(*names), devices(device)
    wrong = [d for d in dtypes if d not in DTYPES]
    if wrong:
        raise InputError(("dtype", repr(wrong[0]), f"one of {', '.join(DTYPES)}"))
    if max_examples < 1:
        raise InputError(("max_examples", repr(max_examples), "at least 1"))
    missing = networks.available() if with_networks else "not asked for"
    work = _Work(chosen, where, tuple(dtypes), max_examples, seed, not missing)
    with _workers(work, jobs) as results:
        theorems = []
        for i, theorem in enumerate(work.theorems):
            theorems.append(_proof(theorem, results(("theorem", i))))
            progress(_proof_line(theorems[-1]))
        found = []
        for i, one in enumerate(chosen):
            proof = _proof(one.derivation, results(("proof", i)))
            progress(_proof_line(proof))
            checks = results(("checks", i))
            for check in checks:
                progress(_check_line(one, check))
            on_networks = () if missing else results(("networks", i))
            for result in on_networks:
                where_ = f"{result.network} {result.dtype} {result.device}"
                progress(f"{one.label}: {where_}: test ratio {result.ratio:.2g}")
            found.append(Verification(one, proof, checks, on_networks))
    return Report(tuple(theorems), tuple(found), where, seed, time.perf_counter() - start, missing)


Task = tuple[Literal["theorem", "proof", "checks", "networks"], int]
"""What is to be done, and the number of the theorem or entry."""

Results = Callable[[Task], Any]
"""Gives what a task comes to."""


@dataclass(frozen=True)
class _Work:
    """All tasks of one run, each of which may be done by itself."""

    entries: tuple[Entry, ...]
    devices: tuple[Device, ...]
    dtypes: tuple[DtypeName, ...]
    max_examples: int
    seed: int
    with_networks: bool

    @cached_property
    def theorems(self) -> tuple[Theorem, ...]:
        """All of them, which are stated by this: a process that states more modules draws other problems, for
        hypothesis takes numbers from the code that is loaded."""
        return (*LEMMAS, *(s.theorem for s in REVERSE_STEPS), *IDENTITIES, *PARAMETERISATIONS, *THEOREMS)

    def do(self, task: Task) -> Any:
        kind, i = task
        if kind == "theorem":
            return _seconds(self.theorems[i].prove())
        one = self.entries[i]
        if kind == "proof":
            return _seconds(one.derivation.prove())
        if kind == "checks":
            return tuple(
                check_random(one, dtype, place, self.max_examples, self.seed)
                for place in self.devices
                for dtype in self.dtypes
            )
        return tuple(
            _on_network(one, network, dtype, place, self.seed)
            for place in self.devices
            for network in networks.NETWORKS
            for dtype in self.dtypes
        )

    def shared(self, jobs: int) -> Shared:
        """The same in several processes.  One has the networks, so that each is built once."""
        numbers = range(len(self.entries))
        batches: list[list[Task]] = [[("theorem", i) for i in range(len(self.theorems))]]
        batches += [[("proof", i), ("checks", i)] for i in numbers]
        if self.with_networks:
            batches.insert(0, [("networks", i) for i in numbers])
        return Shared(self.do, batches, jobs)


def _workers(work: _Work, jobs: int) -> contextlib.AbstractContextManager[Results]:
    """Several processes, where they are wanted and there can be any; else this one."""
    if jobs > 1 and work.devices == ("cpu",) and may_fork():
        with contextlib.suppress(OSError, NotImplementedError):  # no shared memory, no semaphores, no more processes
            return work.shared(jobs)
    return _alone(work)


@contextlib.contextmanager
def _alone(work: _Work) -> Iterator[Results]:
    """Everything here, each thing when it is asked for."""
    yield work.do


def _seconds(proof: Proof) -> tuple[float, ...]:
    """How long each step took; nothing where one is refused, of which more is to be told than goes over a pipe."""
    return tuple(result.seconds for result in proof.results) if proof.holds else ()


def _proof(statement: Theorem | Derivation, seconds: tuple[float, ...]) -> Proof:
    """A proof that was made, maybe elsewhere; one that was refused is tried again here, which gives what is left."""
    if not seconds:
        return statement.prove()
    name, steps = (
        (statement.label, statement.all_steps)
        if isinstance(statement, Derivation)
        else (statement.name, statement.steps)
    )
    results = (StepResult(step, sp.S.Zero, took) for step, took in zip(steps, seconds, strict=True))
    return Proof(name, tuple(results))


def _on_network(entry: Entry, network: str, dtype: DtypeName, place: Device, base_seed: int) -> NetworkCheck:
    result = networks.compare_network(entry, network, base_seed, DTYPES[dtype], place)
    return NetworkCheck(network, dtype, place, result.ratio, result.holds, str(result.parameter))


def _proof_line(proof: Proof) -> str:
    refused = ", ".join(r.step.name for r in proof.refused)
    what = f"REFUSED: {refused}" if refused else "proved"
    return f"{proof.name}: {len(proof.results)} steps {what} in {proof.seconds:.2f} s"


def _check_line(entry: Entry, check: Check) -> str:
    seen = (
        f"sees errors of {check.resolution:.0e}" if check.resolution < 1 else "sees no error: rounding leaves nothing"
    )
    verdict = f"largest test ratio {check.ratio:.2g}, {seen}"
    if check.failure:
        verdict = f"FAILED ({check.failure[1]})"
    return f"{entry.label}: {check.examples} problems in {check.dtype} on {check.device}: {verdict}"
