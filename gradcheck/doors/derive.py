"""``gradcheck derive``: the command line."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
from collections.abc import Sequence

from gradcheck.console import prose
from gradcheck.errors import InputError

__all__ = ["add_arguments", "run", "shielded"]

_GRACE = 20.0
"""Seconds after the time limit at which the process ends, whatever it is doing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``gradcheck derive``."""
    parser.add_argument(
        "expression",
        metavar="EXPRESSION",
        help="a per-sample loss in the notation's names (docs/derive.md), or -",
    )
    parser.add_argument("--let", action="append", default=[], metavar="NAME=EXPR", help="a definition; may be repeated")
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="NAME=KIND",
        help="a quantity of your own: latent, sample or problem (one number); 'sample > 0' is positive",
    )
    parser.add_argument(
        "--wrt",
        default="v_theta",
        metavar="NAME",
        help="what the network puts out: v_theta, noise_theta or x_0_theta (v_theta)",
    )
    parser.add_argument(
        "--sde", metavar="STEP", help="reverse step for C1, C2: flow, dance, cps, wan or ddim (symbols)"
    )
    parser.add_argument("--weight", metavar="EXPR", help="weight of the equivalent loss, where one may choose it")
    parser.add_argument("--problems", type=int, default=24, metavar="N", help="random problems to check on (24)")
    parser.add_argument("--seed", type=int, default=0, help="of the problems (0)")
    parser.add_argument("--time-limit", type=float, default=120.0, metavar="SECONDS", help="for all of it (120)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--latex", action="store_true", help="Markdown with LaTeX, every step included")
    form.add_argument("--torch", action="store_true", help="a Python module with the target and the loss")
    form.add_argument("--json", action="store_true", help="everything as JSON")
    parser.set_defaults(run=run)


def shielded(argv: Sequence[str]) -> list[str]:
    """Arguments in which an expression that begins with a minus cannot be taken for an option."""
    if list(argv[:1]) != ["derive"]:
        return list(argv)
    return [f" {a}" if a.startswith("-") and not a.startswith("--") and a not in ("-", "-h") else a for a in argv]


def run(arguments: argparse.Namespace) -> int:
    """Derive; 0 if all of it was proved and checked, 1 if not."""
    let = {}
    for definition in arguments.let:
        name, sign, value = definition.partition("=")
        if not sign:
            raise InputError(("--let", repr(definition), "NAME=EXPR"))
        let[name.strip()] = value.strip()
    given = {}
    for quantity in arguments.given:
        name, sign, kind = quantity.partition("=")
        if not sign:
            raise InputError(("--given", repr(quantity), "NAME=KIND, adjoint=latent for instance"))
        given[name.strip()] = kind.strip()
    expression = sys.stdin.read(100_000) if arguments.expression.strip() == "-" else arguments.expression.strip()
    if 0 < arguments.time_limit < 1e6:
        with open(os.devnull, "w") as nowhere:
            faulthandler.dump_traceback_later(arguments.time_limit + _GRACE, exit=True, file=nowhere)
            try:
                return _run(arguments, expression, let, given)
            finally:
                faulthandler.cancel_dump_traceback_later()
    return _run(arguments, expression, let, given)


def _run(arguments: argparse.Namespace, expression: str, let: dict[str, str], given: dict[str, str]) -> int:
    import torch

    from gradcheck.deriving.api import derive

    torch.set_num_threads(1)
    derived = derive(
        expression,
        let=let,
        given=given,
        wrt=arguments.wrt,
        sde=arguments.sde,
        weight=arguments.weight,
        problems=arguments.problems,
        seed=arguments.seed,
        time_limit=arguments.time_limit,
    )
    if arguments.json:
        print(json.dumps(derived.to_json(), indent=2, ensure_ascii=False))
    elif arguments.latex:
        print(derived.markdown(), end="")
    elif arguments.torch:
        print(derived.torch_source, end="")
    else:
        print(prose(derived.text()))
    if not derived.holds and (arguments.torch or arguments.json or arguments.latex):
        print("gradcheck derive: NOT VERIFIED; run it without a format to see why", file=sys.stderr)
    return 0 if derived.holds else 1
