"""How often right code is refused: ``python -m benchmarks.alarms --checks 1000000 --tally alarms.jsonl``.

One sample of a batch is one check: it has its own time, advantage, clip regime and velocities, and is judged alone, by
the bound that the oracle judges by, against the derived gradient and against the equivalent loss's.  Every variant of
the catalogue, every preset and the official clip ranges are tried, in float64, float32, bfloat16 and float16, and as
float64 cases of code that declares that it casts to float32.  Each batch is analysed once, and evaluated in several
styles (:mod:`benchmarks.styles`).

The tally is a file with a line for each round of batches; a run that finds it goes on from its last line, and several
runs may share the work: ``--part 0/2`` and ``--part 1/2``, each with a file of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE
from gradcheck.conventions import PRESETS, Conventions, declare
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.checks.gradient import squared_distance_gradient
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.problem import oracle_case
from gradcheck.oracle.required import Required
from gradcheck.problems.building import Spec
from gradcheck.problems.regimes import ADVANTAGE, POLICY, TIME, PolicyRegime
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import error_ratios, gradient_of

from . import text
from .right_losses import right_loss
from .styles import Style

DTYPES = ("float64", "float32", "bfloat16", "float16", "casts to float32")
OUTPUTS = {"bfloat16 output": ("bfloat16", 1.0), "float16 output": ("float16", 1024.0)}
"""Mixed precision as trained: what the network puts out, and the loss's scale.  Cases are of float32."""
CLIPS: tuple[float | tuple[float, float], ...] = (1e-4, 2e-6, 0.2, (0.2, 0.28), 1.0)
SIZES: tuple[tuple[tuple[int, ...], int, int], ...] = (
    *(((16,), 128, 8), ((5, 7), 96, 8), ((3, 2), 128, 8), ((4, 8, 8), 64, 8), ((1,), 64, 6), ((2, 3, 4, 2), 96, 8)),
    *(((16,), 128, 8), ((4096,), 12, 4), ((7,), 128, 8), ((16, 64, 64), 2, 2), ((5, 7), 96, 8)),
)
"""Latent, batch, and styles of one batch, in turn; and every so often one sample of a million numbers."""
MILLION = ((1_000_000,), 1, 1)
EVERY = 41


@dataclass
class Tally:
    """What came out for one algorithm in one precision.

    Attributes:
        checks: samples, each in one style.
        alarms: of those, refused.
        worst: the largest test ratio.
        unjudged: checks of which the precision leaves no component to judge, in all.
    """

    checks: int = 0
    alarms: int = 0
    worst: float = 0.0
    unjudged: float = 0.0

    def add(self, other: Tally) -> None:
        self.checks += other.checks
        self.alarms += other.alarms
        self.worst = max(self.worst, other.worst)
        self.unjudged += other.unjudged


@dataclass(frozen=True)
class Subject:
    """A declaration, and the precision of the cases and of the code."""

    conventions: Conventions
    dtype: str

    @property
    def casts(self) -> bool:
        return self.dtype == DTYPES[-1]

    @property
    def of_case(self) -> torch.dtype:
        if self.dtype in OUTPUTS:
            return torch.float32
        dtype: torch.dtype = torch.float64 if self.casts else getattr(torch, self.dtype)
        return dtype

    def __str__(self) -> str:
        return f"{self.conventions.describe()} in {self.dtype}"


def subjects(number: int, dtypes: Sequence[str] = DTYPES) -> Iterator[Subject]:
    """Every variant and preset in every precision, with a clip range that changes from round to round."""
    declared = [Conventions(e.algorithm.name, options=dict(e.derivation.variant.options)) for e in CATALOGUE]
    for i, one in enumerate(list(declared)):
        if "clip_low" in one.derivation.given:
            width = CLIPS[(i + number) % len(CLIPS)]
            low, high = width if isinstance(width, tuple) else (width, width)
            declared.append(replace(one, fixed={"clip_low": low, "clip_high": high}))
    declared += [declare(preset=preset) for preset in PRESETS]
    for one in declared:
        for dtype in dtypes:
            working = "float32" if dtype == DTYPES[-1] else None
            output, scale = OUTPUTS.get(dtype, (None, 1.0))
            # rows of time steps are the same samples in another arrangement
            own = replace(
                one, batch_reduction="none", steps=False, working_dtype=working, output_dtype=output, factor=scale
            )
            yield Subject(own, dtype)


def specs(number: int, place: int) -> tuple[Spec, int]:
    """A batch of mixed regimes, and in how many styles it is evaluated."""
    turn = number + place
    latent, batch, styles = MILLION if (turn + 7) % EVERY == 0 else SIZES[turn % len(SIZES)]
    policies: tuple[PolicyRegime, ...] = ("mixed", *POLICY, "widths")
    seed = 1_000_003 * (number + 1) + place
    spec = Spec(
        batch,
        latent,
        seed,
        policy=policies[turn % len(policies)],
        time=("mixed", "middle", *TIME)[turn // 2 % (2 + len(TIME))],
        advantage=("mixed", *ADVANTAGE)[turn // 3 % (1 + len(ADVANTAGE))],
        clip=turn % 3,
    )
    return spec, styles


def fitting(spec: Spec, conventions: Conventions) -> Spec:
    """The spec with regimes that the loss has."""
    return (
        spec
        if Piece.RATIO in conventions.derivation.pieces or spec.policy in ("mixed", *POLICY[:3])
        else replace(spec, policy="off")
    )


def cast(case: Case, dtype: torch.dtype) -> Case:
    values = {name: getattr(case, name) for name in case.names}
    return Case(
        case.label,
        {n: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for n, x in values.items()},
    )


class _Upcast(Case):
    """A case whose output is cast up wherever a loss reads it, so that its gradient is rounded in every place."""

    def __init__(self, case: Case) -> None:
        super().__init__(case.label, {name: getattr(case, name) for name in case.names})

    def replace(self, **quantities: Tensor | float) -> Case:
        return _Upcast(super().replace(**quantities))

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return value.float() if name == self.output_name else value


def observed(subject: Subject, case: Case, style: Style) -> Tensor:
    """The gradient of the loss in that style."""
    half = subject.conventions.output_dtype
    v = case.output.detach().clone().to(case.output.dtype if half is None else getattr(torch, half)).requires_grad_()
    own = case.replace(**{case.output_name: v})
    if half is not None:
        own = _Upcast(own) if style.seed % 2 == 1 else case.replace(**{case.output_name: v.float()})
    loss = right_loss(style, subject.conventions, cast(own, torch.float32) if subject.casts else own)
    return gradient_of(loss, v)


def worst_of_each(wanted: Required, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's largest test ratio, and the fraction of its components that can be judged, (B,)."""
    ways = torch.stack([error_ratios(seen, g, s, wanted.dtype).flatten(1).amax(1) for g, s in wanted.ways()])
    undecided = wanted.undecided.reshape(-1).expand(len(seen))
    judged = wanted.scale.expand(seen.shape).isfinite().flatten(1).to(torch.float64).mean(1)
    return torch.where(undecided, ways.amin(0), ways[0]), judged


def wanted_of(conventions: Conventions, case: Case) -> tuple[Required, tuple[Tensor, Tensor, torch.dtype]]:
    """What is required of right code under a declaration, by the gradient and by the equivalent loss."""
    judge = Judge(Adapter(lambda case: case.output.sum(), "right"), conventions)
    return judge.required(case), squared_distance_gradient(judge, case)


def batch(subject: Subject, spec: Spec, styles: int, device: str = "cpu") -> tuple[Tally, list[str]]:
    """Judge one batch in several styles; what came out, and what was refused, in words."""
    case = oracle_case(subject.conventions, spec, subject.of_case, device)
    ways = [wanted_of(subject.conventions, case)]
    if subject.dtype in OUTPUTS:
        ways.append(wanted_of(replace(subject.conventions, output_casts="each"), case))
    tally, words = Tally(), []
    for i in range(styles):
        style = Style(17 * spec.seed + i, torch.float32 if subject.casts else subject.of_case)
        seen = observed(subject, case, style)
        wanted, (required, scale, dtype) = ways[style.seed % len(ways)]
        ratios, judged = worst_of_each(wanted, seen)
        other = error_ratios(seen, required, scale, dtype).flatten(1).amax(1)
        both = torch.maximum(ratios, other)
        refused = int((both > THRESHOLD).sum())
        tally.add(Tally(len(both), refused, float(both.max()), float((1 - judged).sum())))
        if refused:
            which = "gradient" if float(ratios.max()) > THRESHOLD else "equivalence"
            words.append(f"{subject}: {refused} refused, {which}, ratio {float(both.max()):.3g}, {style}; {spec}")
    return tally, words


def run_round(number: int, dtypes: Sequence[str] = DTYPES) -> tuple[dict[str, Tally], list[str]]:
    """One batch of every subject."""
    tallies: dict[str, Tally] = {}
    told: list[str] = []
    for place, subject in enumerate(subjects(number, dtypes)):
        spec, styles = specs(number, place)
        tally, words = batch(subject, fitting(spec, subject.conventions), styles)
        tallies.setdefault(f"{subject.conventions.algorithm} {subject.dtype}", Tally()).add(tally)
        told += words
        for line in words:
            print(line, flush=True)
    return tallies, told


def counted(checks: int) -> dict[str, Tally]:
    """Rounds until there are as many checks."""
    out: dict[str, Tally] = {}
    number = 0
    while sum(t.checks for t in out.values()) < checks:
        for key, tally in run_round(number)[0].items():
            out.setdefault(key, Tally()).add(tally)
        number += 1
    return out


def totals(files: Sequence[Path]) -> dict[str, Tally]:
    """The sums of files of tallies."""
    out: dict[str, Tally] = {}
    for file in files:
        for line in file.read_text().splitlines():
            for key, tally in json.loads(line)["tallies"].items():
                out.setdefault(key, Tally()).add(Tally(**tally))
    return out


def table(tallies: dict[str, Tally]) -> str:
    rows = []
    for key, t in sorted(
        tallies.items(),
        key=lambda pair: (pair[0].split(" ", 1)[0], [*DTYPES, *OUTPUTS].index(pair[0].split(" ", 1)[1])),
    ):
        name, dtype = key.split(" ", 1)
        rows.append((name, dtype, f"{t.checks:,}", str(t.alarms), _up(t.worst), f"{100 * t.unjudged / t.checks:.1f} %"))
    checks, alarms = (sum(getattr(t, what) for t in tallies.values()) for what in ("checks", "alarms"))
    worst = _up(max(t.worst for t in tallies.values()))
    rows.append(("**all**", "", f"**{checks:,}**", f"**{alarms}**", f"**{worst}**", ""))
    return text.table(("algorithm", "precision", "checks", "alarms", "worst test ratio", "cannot be judged"), rows)


def _up(ratio: float) -> str:
    return f"{math.ceil(100 * ratio) / 100:.2f}" if math.isfinite(ratio) else "inf"


def kernels() -> str:
    """The settings that choose which code a product or a sum runs on."""
    chosen = {name: os.environ.get(name, "") for name in ("MKL_CBWR", "ATEN_CPU_CAPABILITY")}
    return " ".join(f"{name}={value}" for name, value in chosen.items() if value) or "as the machine has them"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checks", type=int, default=100_000, help="stop after as many, the tally's own counted in")
    parser.add_argument("--tally", type=Path, default=Path("alarms.jsonl"))
    parser.add_argument("--part", default="0/1", metavar="I/N", help="this run does the I-th of every N rounds")
    parser.add_argument(
        "--precisions", nargs="+", choices=[*DTYPES, *OUTPUTS], default=DTYPES, help="tried in each round"
    )
    parser.add_argument("--until", type=float, default=math.inf, metavar="S", help="start no round after S seconds")
    parser.add_argument("--show", nargs="+", type=Path, metavar="FILE", help="print the sums of tallies, and stop")
    options = parser.parse_args(arguments)
    if options.show:
        print(table(totals(options.show)))
        return 0
    torch.set_num_threads(1)
    part, parts = map(int, options.part.split("/"))
    done = options.tally.read_text().splitlines() if options.tally.exists() else []
    count = sum(t.checks for t in totals([options.tally]).values()) if done else 0
    number, start = part + parts * len(done), time.monotonic()
    alarms = 0
    while count < options.checks and time.monotonic() - start < options.until:
        tallies, told = run_round(number, options.precisions)
        line = {
            "round": number,
            "kernels": kernels(),
            "tallies": {k: asdict(t) for k, t in tallies.items()},
            "told": told,
        }
        with options.tally.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        count, alarms, number = count + sum(t.checks for t in tallies.values()), alarms + len(told), number + parts
        print(f"{count:,} checks, {alarms} batches with alarms, {time.monotonic() - start:.0f} s", flush=True)
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
