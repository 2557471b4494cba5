"""What losses really optimise, derived and verified; and whether an implementation computes it.

Exit status: 0 everything holds, 1 something does not, 2 the question could not be understood, 130 it was interrupted
(143: ended by SIGTERM).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradcheck import __version__
from gradcheck.console import Parser, Progress, in_characters, prose, safe_output, width
from gradcheck.doors import derive as derive_command
from gradcheck.doors.ending import EndedError, in_order, status_of
from gradcheck.errors import InputError, forgiven
from gradcheck.extras import need
from gradcheck.shadowed import shadowing
from gradcheck.theorems.options import ALIASES, OPTIONS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    if argv is not None:
        return _status(argv)
    try:
        with in_order():
            return _status(argv)
    finally:
        gc.freeze()  # the process is the command's own and ends now: what is left need not be searched for garbage


def _status(argv: Sequence[str] | None) -> int:
    with safe_output():
        parser = _parser()
        arguments = parser.parse_args(derive_command.shielded(sys.argv[1:] if argv is None else argv))
        try:
            status: int = arguments.run(arguments)
            sys.stdout.flush()
        except InputError as error:
            print(in_characters(str(error)), file=sys.stderr)
            return 2
        except KeyboardInterrupt as error:
            told = f"ended by {error}" if isinstance(error, EndedError) else "interrupted"
            print(f"[gradcheck] {told}", file=sys.stderr)
            return status_of(error)
        except Exception as error:
            if os.environ.get("GRADCHECK_TRACEBACK"):
                raise
            print(shadowing(error) or f"[gradcheck] {_unexpected(error)}", file=sys.stderr)
            return 2
    return status


def _unexpected(error: Exception) -> str:
    """An error that no check foresaw, which must not read like a verdict."""
    *_, last = traceback.extract_tb(error.__traceback__)
    where = f"{Path(last.filename).name}:{last.lineno}"
    if isinstance(error, OSError):
        return f"{error.strerror or error} ({where})"
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__
    return f"failed itself, which is a mistake of gradcheck's: {text} ({where}; GRADCHECK_TRACEBACK=1 shows all)"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="gradcheck", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--version", action="version", version=f"gradcheck {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    verify = commands.add_parser(
        "verify", help="prove derivations, check them on random problems, and print what they show"
    )
    verify.add_argument("names", nargs="*", metavar="NAME", help="flow_grpo, or flow_grpo[mean]; none means all")
    verify.add_argument("--device", default="all", help="cpu, cuda or all (default: all there are)")
    verify.add_argument(
        "--dtype", action="append", help="float64, float32, bfloat16 or float16; may be repeated (the first two)"
    )
    verify.add_argument("--max-examples", type=int, default=20, metavar="N", help="random problems for each check (20)")
    verify.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    verify.add_argument("--jobs", type=int, metavar="N", help="processes that share the work (one for each core)")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    verify.add_argument("--all", action="store_true", help="show every variant, not each algorithm's paper form alone")
    verify.add_argument("--no-networks", action="store_true", help="leave out the checks on diffusers' networks")
    verify.set_defaults(run=_verify)

    from gradcheck.doors import check as check_command

    check = commands.add_parser(
        "check", help="judge an implementation: does its gradient follow from the loss that it declares?"
    )
    check_command.add_arguments(check)

    fields = commands.add_parser("fields", help="what a case of a loss holds: names, symbols, shapes, meanings")
    _of_a_declaration(fields, new=False)

    new = commands.add_parser("new", help="a test file to begin with: gradcheck new awm > test_awm.py")
    _of_a_declaration(new, new=True)

    unveil = commands.add_parser(
        "unveil", help="read gradient, target and clip off any loss, and find the catalogue entry that it matches"
    )
    unveil.add_argument("target", metavar="TARGET", help="file.py::function or package.module:function")
    unveil.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="that one call may take (60)")
    unveil.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what it holds itself, clip_range=0.2, sde=dance …",
    )
    check_command.add_declaration(unveil)
    unveil.set_defaults(run=_unveil)

    from gradcheck.doors import distributed as distributed_command

    distributed = commands.add_parser("distributed", help="judge trainers on many processes: shards, accumulation, DDP")
    distributed_command.add_arguments(distributed)

    from gradcheck.doors import vectors as vectors_command

    vectors = commands.add_parser("vectors", help="golden vectors: gradients to meet in any language, and the judge")
    vectors_command.add_arguments(vectors)

    from gradcheck.doors import watch as watching_command

    watched = commands.add_parser("watch", help="what the log of a watched training run says")
    watching_command.add_arguments(watched)

    replay = commands.add_parser("replay", help="judge and explain a training step that watch.save wrote")
    watching_command.add_replay(replay)

    derive = commands.add_parser("derive", help="what a loss that you write down optimises: gradient, target, proof")
    derive_command.add_arguments(derive)

    listing = commands.add_parser("list", help="the catalogue: every algorithm and variant")
    listing.add_argument("--options", action="store_true", help="what an implementation may declare, by algorithm")
    listing.add_argument("--theorems", action="store_true", help="the lemmas, reverse steps and theorems")
    listing.set_defaults(run=_list)

    table = commands.add_parser("table", help="what each loss really optimises, as Markdown, from the derivations")
    table.add_argument(
        "--coincidences", action="store_true", help="which losses are one, and when; proved as it is asked"
    )
    table.set_defaults(run=_table)

    explain = commands.add_parser(
        "explain", help="the derivation of one loss, or a theorem, step by step; or a theorem for your own numbers"
    )
    explain.add_argument(
        "name", metavar="NAME", help="flow_grpo, flow_grpo[mean], a lemma such as L2, or a theorem: clip"
    )
    explain.add_argument("--latex", action="store_true", help="formulas as LaTeX")
    explain.add_argument("--prediction", default="v", help="for a network that predicts v, epsilon or x0 (v)")
    explain.add_argument("--noise-at", type=int, default=1, metavar="TIME", help="noise at t = 1 or 0 (1)")
    numbers = explain.add_argument_group("your own numbers, for a theorem such as clip, schedule or group")
    for name, option in OPTIONS.items():
        numbers.add_argument(option.flag, dest=name, metavar="X", help=option.help)
    explain.set_defaults(run=_explain)
    return parser


def _of_a_declaration(parser: argparse.ArgumentParser, *, new: bool) -> None:
    """The options of ``fields`` and ``new``, which say what is declared."""
    parser.add_argument("algorithm", nargs="?", metavar="NAME", help="awm, flow_grpo … (`gradcheck list`)")
    parser.add_argument("--loss", metavar="EXPRESSION", help="in its place: the loss itself in one line, as for derive")
    parser.add_argument("--preset", metavar="NAME", help="a public implementation's declaration")
    parser.add_argument("--declare", action="append", default=[], metavar="KEY=VALUE", help="a convention")
    parser.add_argument(
        "--given", action="append", default=[], metavar="NAME=KIND", help="with --loss: data of your own, as for derive"
    )
    if not new:
        parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_new if new else _fields)


def _fields(arguments: argparse.Namespace) -> int:
    from gradcheck.doors.starting import declared, fields_of, fields_text

    conventions = declared(arguments)
    if arguments.json:
        print(json.dumps([vars(f) for f in fields_of(conventions)], indent=2, ensure_ascii=False))
    else:
        print(fields_text(conventions))
    return 0


def _new(arguments: argparse.Namespace) -> int:
    from gradcheck.doors.starting import declared, skeleton

    print(skeleton(declared(arguments)), end="")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    need("hypothesis", "gradcheck verify")
    import torch

    from gradcheck.doors.check import at_once
    from gradcheck.reports.writing import check_writable, write_text
    from gradcheck.verifying.report import print_report, to_json
    from gradcheck.verifying.verification import verify

    torch.set_num_threads(1)  # small tensors: threads cost more than they bring
    check_writable({"json": arguments.json})
    options = {
        "device": arguments.device,
        "dtypes": arguments.dtype or ("float64", "float32"),
        "max_examples": arguments.max_examples,
        "seed": arguments.seed,
        "with_networks": not arguments.no_networks,
        "jobs": at_once(arguments.jobs, "cpu"),
    }
    progress = Progress()
    try:
        report = verify(*arguments.names, **options, progress=progress)
    finally:
        progress.clear()
    print_report(report, every=arguments.all or any("[" in name for name in arguments.names))
    if arguments.json is not None:
        write_text("--json", arguments.json, json.dumps(to_json(report), indent=2, ensure_ascii=False) + "\n")
    return 0 if report.holds else 1


def _unveil(arguments: argparse.Namespace) -> int:
    import torch

    from gradcheck.doors.check import declared_by
    from gradcheck.doors.unveiling import UnveilJob
    from gradcheck.judging.isolation.memory import available_memory
    from gradcheck.judging.isolation.parent import Child, possible

    torch.set_num_threads(1)
    if not arguments.timeout > 0:
        raise InputError(("timeout", repr(arguments.timeout), "seconds, more than 0"))
    declared = declared_by(arguments)
    job = UnveilJob(arguments.target, arguments.timeout, tuple(arguments.set), declared)
    child = Child(job, arguments.timeout, available_memory(), arguments.target)
    messages: list[tuple[Any, ...]] = []
    if possible():
        messages += child.messages()
    else:
        job.run(lambda *message: messages.append(message))
    told = {word: data for word, *data in messages}
    if "refused" in told:
        raise InputError(*told["refused"][0])
    reason = child.reason or next(iter(told.get("broken", [])), "")
    if reason or "text" not in told:
        reason = reason or "it ended before anything was found"
        print(f"[gradcheck] {arguments.target} could not be judged: {reason}", file=sys.stderr)
        return 2
    print(prose(told["text"][0]))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from gradcheck.catalogue import CATALOGUE

    if arguments.options:
        from gradcheck.conventions import options_text

        print(prose(options_text()))
        return 0
    if arguments.theorems:
        rows = [(theorem.name, theorem.title) for theorem in _theorems().values()]
    else:
        rows = [(e.label, e.derivation.variant.summary) for e in CATALOGUE]
    longest = max(len(name) for name, _ in rows)
    for name, words in rows:
        print(prose(f"{name:{longest}}  {words}"))
    return 0


def _theorems() -> dict[str, Any]:
    """What `explain` proves besides losses, by name."""
    from derivations.identities import IDENTITIES
    from derivations.lemmas import LEMMAS
    from derivations.steps.paths import PARAMETERISATIONS
    from derivations.steps.sde import REVERSE_STEPS
    from derivations.theorems import THEOREMS

    of_steps = (s.theorem for s in REVERSE_STEPS)
    return {t.name: t for t in (*LEMMAS, *of_steps, *IDENTITIES, *PARAMETERISATIONS, *THEOREMS)}


def _table(arguments: argparse.Namespace) -> int:
    from derivations.coincidences import coincidence_table
    from gradcheck.catalogue import closing_table

    print(coincidence_table() if arguments.coincidences else closing_table())
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from derivations.writing.render import explain, theorem_explain
    from gradcheck.catalogue import CATALOGUE, wanted_entry
    from gradcheck.conventions import variables_problems

    given = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    if given:
        from gradcheck.theorems.calculators import calculate

        print(prose(calculate(arguments.name, given)), end="")
        return 0
    theorems = _theorems()
    terminal: dict[str, Any] = {"width": width(), "ascii_only": in_characters("θ") != "θ"}
    paper = [f"{e.algorithm.name}[{e.variant}]" for e in CATALOGUE]
    known = [*theorems, *ALIASES, *(e.label for e in CATALOGUE), *paper]
    name = forgiven(arguments.name, known)
    named = ALIASES.get(name, name)
    if named in theorems:
        print(theorem_explain(theorems[named], latex=arguments.latex, **terminal), end="")
        return 0
    for e in CATALOGUE:
        if name in (e.label, f"{e.algorithm.name}[{e.variant}]"):
            problems = variables_problems(arguments.prediction, arguments.noise_at, e.derivation.path)
            if problems:
                raise InputError(*problems)
            of = e.under(arguments.prediction, arguments.noise_at).derivation
            print(explain(of, latex=arguments.latex, **terminal), end="")
            return 0
    raise InputError(("NAME", repr(arguments.name), wanted_entry(arguments.name, [*theorems, *ALIASES])))


if __name__ == "__main__":
    sys.exit(main())
