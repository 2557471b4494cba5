"""Judges the right and the wrong code of every rank: ``python -m tests.ranks.table --seeds 15``.

One line for each rank: of its right code how many judgements there were and how many alarms, of its wrong code how much
was refused and how much of that was named.  What is done is kept in ``--tally FILE``, so that a run which was stopped
goes on from there; seeds go round all ranks first, so that a partial run has judged each of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.ranks.base import Loss, Part, Rank, judged, told
from tests.ranks.parts import ESTIMATORS, TIMES
from tests.ranks.policies import AUTOCAST, COORDINATES, DIVERGENCES, FRAMEWORKS, JOINT, ROWS, SURROGATES
from tests.ranks.preferences import PREFERENCES
from tests.ranks.weighting import CLIPS, GUARDS, GUIDANCE, MASKS, TIME_WEIGHTS

__all__ = ["RANKS", "Task", "main", "run"]

RANKS: tuple[Rank, ...] = (
    TIME_WEIGHTS,
    MASKS,
    GUIDANCE,
    CLIPS,
    GUARDS,
    AUTOCAST,
    ROWS,
    DIVERGENCES,
    PREFERENCES,
    JOINT,
    TIMES,
    SURROGATES,
    COORDINATES,
    FRAMEWORKS,
    ESTIMATORS,
)
"""In the order of how widely their code is used."""


@dataclass(frozen=True)
class Task:
    """One judgement; ``wrong`` is the name of the wrong code, empty for the right one."""

    rank: int
    subject: str
    wrong: str
    precision: str
    seed: int

    @property
    def key(self) -> str:
        return "/".join((str(self.rank), self.subject, self.wrong, self.precision, str(self.seed)))

    @property
    def of(self) -> Loss | Part:
        return RANKS[self.rank - 1].subjects[self.subject]


def run(task: Task, examples: int) -> tuple[str, list[str]]:
    """``"right"`` or ``"alarm"`` of right code, and what failed.

    Of wrong code ``"missed"``, ``"refused"`` where it has no name, ``"named"`` or ``"misnamed"`` where it has; and what
    was told.
    """
    one = task.of
    if not task.wrong:
        found = judged(one.judgement(one.right, task.precision, task.seed, examples))
        return ("alarm" if found else "right"), found
    wrong = one.every_wrong[task.wrong]
    only = ("gradient",) if isinstance(one, Loss) else ()
    judgement = one.judgement(wrong.code, task.precision, task.seed, examples, only)
    if only and not judged(judgement):  # on clips' other sides, say
        judgement = one.judgement(wrong.code, task.precision, task.seed, examples)
    causes = told(judgement)
    if not judged(judgement):
        return "missed", causes
    if not wrong.named:
        return "refused", causes
    return ("named" if any(wrong.named in words for words in causes) else "misnamed"), causes


def tasks(seeds: int, wrong_seeds: int) -> Iterator[Task]:
    for seed in range(seeds):
        for number, rank in enumerate(RANKS, 1):
            for name, one in rank.subjects.items():
                for precision in one.precisions:
                    yield Task(number, name, "", precision, seed)
                    if seed < wrong_seeds:
                        yield from (Task(number, name, wrong, precision, seed) for wrong in one.every_wrong)


def _rows(found: dict[str, tuple[str, list[str]]]) -> Iterator[str]:
    yield "| rank | right code | alarms | wrong code | refused | with a name | named |"
    yield "|---|---|---|---|---|---|---|"
    total = [0] * 6
    for number, rank in enumerate(RANKS, 1):
        verdicts = [verdict for key, (verdict, _) in found.items() if key.startswith(f"{number}/")]
        right, alarms, missed, nameless, misnamed, good = (
            verdicts.count(x) for x in ("right", "alarm", "missed", "refused", "misnamed", "named")
        )
        refused = nameless + misnamed + good
        row = [right + alarms, alarms, missed + refused, refused, misnamed + good, good]
        total = [a + b for a, b in zip(total, row, strict=True)]
        yield f"| {number} {rank.title} | {' | '.join(f'{x:,}' for x in row)} |"
    yield f"| all | {' | '.join(f'{x:,}' for x in total)} |"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=15, help="for right code (15)")
    parser.add_argument("--wrong-seeds", type=int, default=2, help="for wrong code, whose causes take longer (2)")
    parser.add_argument("--max-examples", type=int, default=4, help="problems for each obligation (4)")
    parser.add_argument("--tally", type=Path, help="where to keep what is done")
    parser.add_argument("--report", action="store_true", help="judge nothing, and tell what the tally holds")
    parser.add_argument("--match", default="", help="part of rank/subject/wrong/precision/seed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, tuple[str, list[str]]] = {}
    if options.tally is not None and options.tally.exists():
        lines = options.tally.read_text().splitlines()
        found = {key: (verdict, words) for key, verdict, words in map(json.loads, lines)}
    wanted = [t for t in tasks(options.seeds, options.wrong_seeds) if options.match in t.key]
    todo = [] if options.report else [t for t in wanted if t.key not in found]
    start = time.perf_counter()
    for i, task in enumerate(todo, 1):
        verdict, words = found[task.key] = run(task, options.max_examples)
        if options.tally is not None:
            with options.tally.open("a") as file:
                file.write(json.dumps([task.key, verdict, words]) + "\n")
        if verdict in ("alarm", "missed", "misnamed") or options.match:
            print(f"{verdict}: {task.key}: {'; '.join(words)}", flush=True)
        if i % 50 == 0:
            print(f"{i} of {len(todo)}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    seen = {t.key: found[t.key] for t in wanted if t.key in found}
    print("\n".join(_rows(seen)))
    print(f"{len(seen):,} of {len(wanted):,} judgements")
    return 1 if any(verdict in ("alarm", "missed") for verdict, _ in seen.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
