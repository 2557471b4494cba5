r"""A failure as a script: the smallest problem as literal tensors, runnable as it stands."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gradcheck.bounds import THRESHOLD, unit_roundoff
from gradcheck.case import Case
from gradcheck.oracle.judging import Judge
from gradcheck.oracle.obligations import Obligation
from gradcheck.oracle.results import Outcome
from gradcheck.oracle.target import Target

__all__ = ["literal", "script"]

_MOST = 400  # numbers that a person would still paste


def script(target: Target, judge: Judge, obligation: Obligation, outcome: Outcome) -> str:
    """Python source that builds the case, calls the implementation and asserts the required gradient.

    Empty if the failure is not about one case's gradient, or the case is too large to paste.
    """
    if outcome.spec is None or outcome.comparison is None or obligation.id in _RELATIONAL:
        return ""
    single = obligation.id == "precision"
    case = judge.case(outcome.spec, torch.float32 if single else None)
    wanted = judge.reference(case)
    if sum(x.numel() for n in case.names if isinstance(x := getattr(case, n), Tensor)) > _MOST:
        return ""
    lines = ["import torch", "from gradcheck.case import Case", "nan, inf = float('nan'), float('inf')"]
    lines += [_import(target), "", f"case = Case({case.label!r}, {{"]
    for name in case.names:
        lines.append(f"    {name!r}: {literal(getattr(case, name))},")
    lines += [
        "})",
        "case.v_theta.requires_grad_()",
        f"required = {literal(wanted.gradient.detach())}",
        f"bound = {literal(_bound(wanted.scale, wanted.dtype))}",
        "loss = implementation(case)",
        "(observed,) = torch.autograd.grad(loss.sum(), case.v_theta)",
        "difference = (observed.double() - required).abs()",
        "print('observed', observed, 'required', required, 'difference', difference, sep='\\n')",
        f"assert (difference <= bound).all(), 'the {obligation.id} obligation fails'",
    ]
    return "\n".join(lines) + "\n"


_RELATIONAL = {"sample-independence", "permutation", "micro-batching", "equivalence", "value", "compiled"}


def _bound(scale: Tensor, dtype: torch.dtype) -> Tensor:
    return THRESHOLD * unit_roundoff(dtype) * scale


def _import(target: Target) -> str:
    if "::" in target.source:
        file, _, name = target.source.partition("::")
        return (
            "import importlib.util, sys\n"
            f"sys.path.insert(0, {str(Path(file).resolve().parent)!r})\n"
            f"spec = importlib.util.spec_from_file_location('judged', {file!r})\n"
            "judged = importlib.util.module_from_spec(spec); spec.loader.exec_module(judged)\n"
            f"implementation = getattr(judged.{name}, 'gradcheck_function', judged.{name})"
        )
    if ":" in target.source:
        module, _, name = target.source.partition(":")
        return (
            f"import {module} as judged\nimplementation = getattr(judged.{name}, 'gradcheck_function', judged.{name})"
        )
    return f"# put your function {target.name!r} here, as\n# implementation = ..."


def literal(value: Tensor | float | Case) -> str:
    """A tensor as source text that gives back the same bits."""
    if not isinstance(value, Tensor):
        return repr(value)
    data = value.detach().cpu()
    device = f", device={str(value.device)!r}" if value.device.type != "cpu" else ""
    return f"torch.tensor({data.tolist()!r}, dtype={data.dtype}{device})"
