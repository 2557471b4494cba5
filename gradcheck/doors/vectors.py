r"""``gradcheck vectors export`` and ``gradcheck vectors check``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gradcheck.console import prose
from gradcheck.extras import need

__all__ = ["add_arguments"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two commands and their options."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    export = commands.add_parser("export", help="write problems and the gradients that they demand")
    export.add_argument("names", nargs="*", metavar="NAME", help="flow_grpo, or flow_grpo[mean]; none means all")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    export.add_argument("--seed", type=int, default=0, help="of everything random (0)")
    export.set_defaults(run=_export)

    check = commands.add_parser("check", help="judge the gradients that a program in any language wrote")
    check.add_argument("folder", type=Path, metavar="DIR", help="the vectors")
    check.add_argument("answers", type=Path, metavar="ANSWERS", help="folder with the answers, files named alike")
    check.add_argument("names", nargs="*", metavar="NAME", help="those that were answered; none means all")
    check.add_argument("--dtype", action="append", default=[], help="float64 or float32; may be repeated (both)")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts as JSON")
    check.set_defaults(run=_check)


def _export(arguments: argparse.Namespace) -> int:
    need("safetensors", "gradcheck vectors")
    import torch

    from gradcheck.vectors.export import export

    torch.set_num_threads(1)  # small tensors: threads cost more than they bring
    files = export(arguments.out, *arguments.names, seed=arguments.seed)
    print(f"wrote {len(files)} files, {sum(f.stat().st_size for f in files) / 1e6:.2f} MB, to {arguments.out}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """0 every answer holds, 1 one does not, 2 one could not be judged."""
    need("safetensors", "gradcheck vectors")
    from gradcheck.reports.writing import check_writable, write_text
    from gradcheck.vectors.checking import check
    from gradcheck.vectors.text import answers_text, to_json

    check_writable({"json": arguments.json})
    answered = check(arguments.folder, arguments.answers, *arguments.names, dtypes=arguments.dtype)
    print(prose(answers_text(answered)))
    if arguments.json is not None:
        text = json.dumps(to_json(answered), indent=2, ensure_ascii=False, allow_nan=False)
        write_text("--json", arguments.json, text + "\n")
    if any(a.problems for a in answered):
        return 2
    return 0 if all(a.holds for a in answered) else 1
