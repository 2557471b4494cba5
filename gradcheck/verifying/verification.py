r"""The main job: prove every derivation, then check it on random problems, and say what was seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from derivations.derivation import Proof
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.steps.paths import PARAMETERISATIONS
from derivations.steps.sde import REVERSE_STEPS
from derivations.theorems import THEOREMS
from gradcheck.catalogue import Entry, entries
from gradcheck.devices import DTYPES, Device, DeviceChoice, DtypeName, devices
from gradcheck.errors import InputError
from gradcheck.problems.building import Spec, build
from gradcheck.problems.strategies import specs
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import Comparison, compare_entry
from gradcheck.verifying import networks

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


def verify(
    *names: str,
    device: DeviceChoice = "all",
    dtypes: Sequence[DtypeName] = ("float64", "float32"),
    max_examples: int = 20,
    seed: int = 0,
    with_networks: bool = True,
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
    theorems = []
    for theorem in (*LEMMAS, *(s.theorem for s in REVERSE_STEPS), *IDENTITIES, *PARAMETERISATIONS, *THEOREMS):
        theorems.append(theorem.prove())
        progress(_proof_line(theorems[-1]))
    results = []
    for one in chosen:
        proof = one.derivation.prove()
        progress(_proof_line(proof))
        checks = []
        for place in where:
            for dtype in dtypes:
                checks.append(check_random(one, dtype, place, max_examples, seed))
                progress(_check_line(one, checks[-1]))
        on_networks = () if missing else tuple(_check_networks(one, dtypes, where, seed, progress))
        results.append(Verification(one, proof, tuple(checks), on_networks))
    return Report(tuple(theorems), tuple(results), where, seed, time.perf_counter() - start, missing)


def _check_networks(
    entry: Entry, dtypes: Iterable[DtypeName], where: Iterable[Device], base_seed: int, progress: Callable[[str], None]
) -> Iterable[NetworkCheck]:
    for place in where:
        for network in networks.NETWORKS:
            for dtype in dtypes:
                result = networks.compare_network(entry, network, base_seed, DTYPES[dtype], place)
                progress(f"{entry.label}: {network} {dtype} {place}: test ratio {result.ratio:.2g}")
                yield NetworkCheck(network, dtype, place, result.ratio, result.holds, str(result.parameter))


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
