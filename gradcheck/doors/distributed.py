r"""``gradcheck distributed`` and ``python -m gradcheck.distributed``: judge trainers on many processes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradcheck.console import prose
from gradcheck.errors import GradcheckError, InputError

__all__ = ["add_arguments", "main", "run"]

_REPORTS = {"json": "the judgement as JSON (docs/oracle-report.md)", "junit": "JUnit XML", "summary": "Markdown"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="file.py, file.py::step or package.module:step")
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="start N processes here, where torchrun has not started them (1)"
    )
    parser.add_argument("--only", action="append", default=[], metavar="OBLIGATION", help="this one; may be repeated")
    parser.add_argument("--device", default="cpu", help="cpu (gloo), cuda (NCCL, one GPU a rank) or all (cpu)")
    parser.add_argument("--dtype", default="float64", help="of network and batch: float64 or float32 (float64)")
    parser.add_argument("--max-examples", type=int, default=2, metavar="N", help="batches for each division (2)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="that one step may take (60)")
    for kind, words in _REPORTS.items():
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"write {words}")
    parser.set_defaults(run=run)


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m gradcheck.distributed``; returns the exit status, the same on every rank."""
    parser = argparse.ArgumentParser(prog="python -m gradcheck.distributed", description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    try:
        return run(arguments)
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":
            print(error, file=sys.stderr)
        return _tell(2)


def run(arguments: argparse.Namespace) -> int:
    """Judge every target on the processes of this run; 0 if all conform, 1 if one does not, 2 if one cannot be judged.

    Under the launcher, whose own status says nothing, the status is in a file and every process ends with 0.
    """
    from gradcheck.oracle.subject import Settings
    from gradcheck.reports.writing import check_writable

    files = {kind: getattr(arguments, kind) for kind in _REPORTS}
    check_writable(files)
    settings = Settings(
        arguments.device, arguments.dtype, arguments.max_examples, arguments.seed, timeout=arguments.timeout
    )
    if "WORLD_SIZE" not in os.environ and (arguments.ranks or 1) != 1:
        from gradcheck.distributed.launching import launch

        return launch(*arguments.targets, ranks=arguments.ranks, options=_options(arguments))
    status = _judge_all(arguments, settings, files)
    return _tell(status)


def _judge_all(arguments: argparse.Namespace, settings: Any, files: dict[str, Any]) -> int:
    import torch

    from gradcheck.distributed.judging import judge_on, usable_gpus
    from gradcheck.distributed.processes import processes
    from gradcheck.doors.loading import load_trainers
    from gradcheck.reports.text import judgement_text
    from gradcheck.reports.writing import write_reports

    torch.set_num_threads(1)  # small tensors: threads cost more than they bring
    judgements, unjudged = [], 0
    with processes(usable_gpus(settings.device), settings.timeout) as ranks:
        trainers = [trainer for text in arguments.targets for trainer in load_trainers(text)]
        for trainer in trainers:
            try:
                judgements.append(judge_on(ranks, trainer, settings, arguments.only))
                if ranks.rank == 0:
                    print(prose(judgement_text(judgements[-1])), end="\n\n", flush=True)
            except GradcheckError as error:
                unjudged += 1
                if ranks.rank == 0:
                    print(f"[gradcheck] {trainer.name} could not be judged: {error}", file=sys.stderr, flush=True)
        if ranks.rank == 0:
            for file in write_reports(judgements, settings, files):
                print(f"wrote {file}")
    if unjudged or any(j.unjudged for j in judgements):
        return 2
    return 0 if all(j.holds for j in judgements) else 1


def _options(arguments: argparse.Namespace) -> list[str]:
    given = [f"--only={name}" for name in arguments.only]
    names = ("device", "dtype", "max_examples", "seed", "timeout", *_REPORTS)
    values = {name: getattr(arguments, name) for name in names}
    return given + [f"--{n.replace('_', '-')}={v}" for n, v in values.items() if v is not None]


def _tell(status: int) -> int:
    from gradcheck.distributed.processes import STATUS_FILE, write_status

    write_status(status)
    return 0 if STATUS_FILE in os.environ else status
