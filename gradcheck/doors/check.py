r"""``gradcheck check``: judge implementations without pytest."""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcheck.console import Progress, coloured, painted, prose
from gradcheck.errors import InputError, forgiven

if TYPE_CHECKING:
    from gradcheck.doors.checking import Judged

__all__ = ["add_arguments", "add_declaration", "at_once", "declared_by", "declared_pairs", "run"]

_REPORTS = {
    "json": "the judgement as JSON (docs/oracle-report.md)",
    "html": "one self-contained page with plots",
    "junit": "JUnit XML",
    "summary": "Markdown, as a CI step's summary",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``gradcheck check``."""
    parser.add_argument(
        "targets", nargs="+", metavar="TARGET", help="folder, file.py, file.py::function or package.module:function"
    )
    add_declaration(parser)
    parser.add_argument(
        "--only", action="append", default=[], metavar="OBLIGATION", help="check this one; may be repeated"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or all (cpu)")
    parser.add_argument(
        "--dtype", default="float64", help="precision of the cases: float64, float32, bfloat16 or float16 (float64)"
    )
    parser.add_argument("--max-examples", type=int, default=10, metavar="N", help="cases for each obligation (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the cases (0)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="that one call with its backward pass, or the import, may take (60)",
    )
    parser.add_argument(
        "--memory", metavar="SIZE", help="that a target may need, 8G for instance (most of what is free)"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="targets that are judged at once, in processes (one for each core)"
    )
    parser.add_argument(
        "--isolation",
        choices=("process", "none"),
        default="process",
        help="judge each target in a process of its own, or, for a debugger, all in this one (process)",
    )
    parser.add_argument(
        "--latent", metavar="SIZES", help="losses: shape of one sample, 16,21,60,104 for instance (several small ones)"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="losses: samples in a batch (several, 1 to 131)")
    parser.add_argument("--brief", action="store_true", help="one row for each target")
    parser.add_argument("--verbose", action="store_true", help="tell every failure in full, not the first one alone")
    parser.add_argument("--compiled", action="store_true", help="losses: also judge under torch.compile")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="fail on what became worse since this --json report"
    )
    for kind, words in _REPORTS.items():
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"write {words}")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Judge every target; 0 if all conform, 1 if one does not, 2 if one could not be judged."""
    with _without_collections():
        import torch

        from gradcheck.distributed.verdicts import IDS as STEP_OBLIGATIONS
        from gradcheck.doors.checking import CheckJob, judged
        from gradcheck.doors.parts import PART_OBLIGATIONS
        from gradcheck.judging.isolation.memory import available_memory
        from gradcheck.judging.isolation.parent import possible
        from gradcheck.oracle.obligations import OBLIGATIONS
        from gradcheck.oracle.runner import check_only
        from gradcheck.oracle.subject import Settings, sizes
        from gradcheck.reports.text import brief_text, judgement_text, verdict_text
        from gradcheck.reports.writing import check_writable, save_script, write_reports

    torch.set_num_threads(1)  # small tensors: threads cost more than they bring
    files = {kind: getattr(arguments, kind) for kind in _REPORTS}
    check_writable(files)
    settings = Settings(
        device=arguments.device,
        dtype=arguments.dtype,
        max_examples=arguments.max_examples,
        seed=arguments.seed,
        compiled=arguments.compiled,
        timeout=arguments.timeout,
        latent=sizes(arguments.latent),
        batch=arguments.batch,
    )
    others = (*PART_OBLIGATIONS, *STEP_OBLIGATIONS)
    only = [forgiven(name, [*(o.id for o in OBLIGATIONS), *others]) for name in arguments.only]
    check_only([name for name in only if name not in others])
    memory = available_memory() if arguments.memory is None else _memory(arguments.memory)
    earlier = _baseline(arguments.baseline)
    declared = declared_by(arguments)
    judgements = []
    pictures: dict[Any, Any] = {}
    texts = list(_files_of(arguments.targets))
    isolated = arguments.isolation == "process" and possible()
    progress = Progress()
    jobs = [CheckJob(text, settings, declared, tuple(only), bool(arguments.html)) for text in texts]
    progress(f"{', '.join(arguments.targets)} …")
    together = at_once(arguments.jobs, arguments.device)
    for one in _cleared(progress, judged(jobs, memory, isolated, together, arguments.memory is None, progress)):
        if one.nothing and len(texts) > len(arguments.targets):
            continue  # a folder's tests need not be ours
        judgements.append(one.judgement)
        pictures |= one.pictures
        if one.refused:
            print(one.refused, file=sys.stderr, flush=True)
            continue
        if arguments.brief:
            print(_in_colours(prose(brief_text(one.judgement))), flush=True)
            continue
        several = one.several or len(texts) > 1
        shown = judgement_text(one.judgement, verbose=arguments.verbose, several=several, save=save_script)
        print(_in_colours(prose(shown)), end="\n\n", flush=True)
        if one.judgement.unjudged:
            told = f"[gradcheck] {one.judgement.subject} could not be judged: {one.judgement.unjudged}"
            print(told, file=sys.stderr, flush=True)
    if not judgements:
        raise InputError(("TARGET", ", ".join(map(repr, arguments.targets)), "a decorated function in a test_*.py"))
    if len(judgements) > 1 and not arguments.brief:
        print(_in_colours(prose("\n".join(map(verdict_text, judgements)))))
    for file in write_reports(judgements, settings, files, pictures):
        print(f"wrote {file}")
    worse = _compare(earlier, judgements, settings) if earlier is not None else 0
    if any(j.unjudged for j in judgements):
        return 2
    return 0 if all(j.holds for j in judgements) and not worse else 1


def _cleared(progress: Progress, found: Iterator[Judged]) -> Iterator[Judged]:
    """The same, where the line of progress is gone whenever something is to be printed, an error too."""
    try:
        for one in found:
            progress.clear()
            yield one
    finally:
        progress.clear()


_VERDICTS = re.compile(r"^(.*?)((?<= )ok(?= )|FAILED|UNJUDGED|does not (?:conform|hold)|could not be judged|conforms)")


def _in_colours(text: str) -> str:
    """The word of each line that says how it went, green or red, where colours may be written."""
    if not coloured():
        return text

    def paint(found: re.Match[str]) -> str:
        return found[1] + painted(found[2], "good" if found[2] in ("ok", "conforms") else "bad")

    return "\n".join(_VERDICTS.sub(paint, line, count=1) for line in text.split("\n"))


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Imports make objects that stay: going through all of them in search of garbage takes a sixth of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _files_of(targets: Sequence[str]) -> Iterator[str]:
    """The targets, with a folder's tests in the folder's place."""
    for text in targets:
        folder = Path(text)
        if "::" in text or not folder.is_dir():
            yield text
            continue
        files = sorted(f for f in folder.rglob("test_*.py") if not _hidden(f.relative_to(folder)))
        if not files:
            raise InputError(("TARGET", f"{text!r}, a folder without test_*.py", "one with tests, or a file"))
        yield from map(str, files)


def at_once(jobs: int | None, device: str) -> int:
    """How many things are judged at once: as many as there are cores, and one on a GPU, unless it is said."""
    if jobs is None:
        return (os.cpu_count() or 1) if device == "cpu" else 1
    if jobs < 1:
        raise InputError(("--jobs", repr(jobs), "a number of processes, at least 1"))
    return jobs


def _hidden(file: Path) -> bool:
    return any(part.startswith(".") or part in ("__pycache__", "node_modules", "site-packages") for part in file.parts)


def _memory(text: str) -> float:
    """Bytes, of ``8G``, ``500M`` or a number of gigabytes."""
    units = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in units else (text, "G")
    try:
        size = float(number) * units[unit]
    except ValueError:
        size = math.nan
    if not 2.0**20 <= size < math.inf:
        raise InputError(("--memory", repr(text), "a size from 1M, 8G for instance"))
    return size


def add_declaration(parser: argparse.ArgumentParser) -> None:
    """What functions that are not decorated are declared to be."""
    parser.add_argument("--algorithm", metavar="NAME", help="for functions that are not decorated: what they implement")
    parser.add_argument("--loss", metavar="EXPRESSION", help="in its place: the loss itself in one line, as for derive")
    parser.add_argument("--preset", metavar="NAME", help="for those too: a public implementation's declaration")
    parser.add_argument(
        "--declare", action="append", default=[], metavar="KEY=VALUE", help="for those too: a convention"
    )
    parser.add_argument(
        "--given", action="append", default=[], metavar="NAME=KIND", help="with --loss: data of your own, as for derive"
    )


def declared_by(arguments: argparse.Namespace) -> tuple[str | None, str | None, dict[str, Any]] | None:
    """Algorithm, preset and conventions of a command line; ``None`` if it declares nothing.

    Raises:
        InputError: that is no declaration.
    """
    from gradcheck.conventions import declare

    if arguments.algorithm is None and arguments.preset is None and arguments.loss is None:
        for flag, texts in (("--declare", arguments.declare), ("--given", arguments.given)):
            if texts:
                raise InputError((flag, repr(texts[0]), "--algorithm, --loss or --preset with it"))
        return None
    pairs = declared_pairs(arguments.declare)
    if arguments.loss is not None:
        pairs["loss"] = arguments.loss
    if arguments.given:
        pairs["given"] = {name: str(kind) for name, kind in declared_pairs(arguments.given, "--given").items()}
    declare(arguments.algorithm, preset=arguments.preset, **pairs)  # which raises where that is no declaration
    return arguments.algorithm, arguments.preset, pairs


def declared_pairs(texts: Sequence[str], flag: str = "--declare") -> dict[str, Any]:
    """What ``--declare KEY=VALUE`` says, each time that it is given.

    Raises:
        InputError: one has no ``=``.
    """
    pairs = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            example = "KEY=VALUE, log_prob_reduction=mean for instance"
            example = example if flag == "--declare" else "NAME=KIND, adjoint=latent for instance"
            raise InputError((flag, repr(text), example))
        pairs[key.strip()] = _value(value.strip())
    return pairs


def _value(text: str) -> Any:
    """A number, a pair of numbers, true or false, or a word."""
    words = {"true": True, "false": False, "none": "none", "None": None}
    if text in words:
        return words[text]
    try:
        numbers = [float(x) for x in text.strip("()").split(",")]
    except ValueError:
        return text
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def _baseline(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    from gradcheck.reports.baseline import load

    return load(file)


def _compare(earlier: dict[str, Any], judgements: list[Any], settings: Any) -> int:
    from gradcheck.reports.baseline import compare, notes
    from gradcheck.reports.json_report import to_json

    now = to_json(judgements, settings)
    found = compare(earlier, now)
    for one in found:
        print(f"worse than the baseline: {one}")
    for note in notes(earlier, now):
        print(f"against the baseline: {note}")
    return len(found)
