r"""A failure as a script: the smallest problem as literal tensors, runnable as it stands.

What shows the failure is the obligation's own (:mod:`.bodies`); here is the case around it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.errors import GradcheckError
from gradcheck.judging.results import Outcome
from gradcheck.oracle.arrangement import needs_presenting
from gradcheck.oracle.bodies import literal
from gradcheck.oracle.checks.gradient import as_computed
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.obligations import Obligation
from gradcheck.oracle.subject import Subject
from gradcheck.problems.building import Spec

__all__ = ["literal", "package_of", "script"]

_MOST = 400  # numbers that a person would still paste


def script(subject: Subject, judge: Judge, obligation: Obligation, outcome: Outcome) -> str:
    """Python source that builds the case, calls the implementation and asserts what the obligation demands.

    A case of more numbers than one would paste is built from its seed instead.  Empty if there is no such case.
    """
    if outcome.spec is None:
        return ""
    dtype = getattr(torch, obligation.dtype) if obligation.dtype else judge.dtype
    if obligation.id == "gradient" and outcome.comparison is None:
        judge = as_computed(judge)  # it is within the declared precision's bound, and yet no rounding
    case = judge.case(outcome.spec, dtype)
    try:
        body = obligation.body(judge, case)
    except GradcheckError:
        return ""  # it could be judged before, and cannot be now
    lines = [
        "import torch",
        "from gradcheck.case import Case",
        "nan, inf = float('nan'), float('inf')",
        *_import(subject),
        *_presenting(judge),
        "",
        *_quantities(judge, case, outcome.spec, strided=obligation.layouts),
        "",
        *body,
        f"assert holds, 'the {obligation.id} obligation fails'",
    ]
    return "\n".join(lines) + "\n"


def _quantities(judge: Judge, case: Case, spec: Spec, strided: bool) -> list[str]:
    numbers = sum(x.numel() for n in case.names if isinstance(x := getattr(case, n), Tensor))
    if numbers > _MOST:
        lines = [
            "from gradcheck.conventions import declare",
            "from gradcheck.oracle.problem import oracle_case",
            "from gradcheck.problems.building import Spec",
            f"conventions = declare({judge.conventions.describe()})",
            f"drawn = oracle_case(conventions, {spec!r}, {case.output.dtype}, {judge.device!r})",
            "quantities = {name: getattr(drawn, name) for name in drawn.names}",
            f"quantities[{case.output_name!r}] = drawn.output.detach()",
        ]
        dtype = judge.conventions.output_dtype
        lines += [f"quantities[{n!r}] = quantities[{n!r}].to(torch.{dtype})" for n in sorted(judge.put_out(case))]
    else:
        lines = ["quantities = {"]
        handed = judge.handed(case)
        lines += [f"    {name!r}: {literal(getattr(handed, name))}," for name in case.names]
        lines.append("}")
    if strided:
        lines += [
            "for name, x in quantities.items():  # not contiguous: a slice of a transposed latent",
            f"    if isinstance(x, torch.Tensor) and x.shape == quantities[{case.output_name!r}].shape:",
            "        quantities[name] = torch.stack([x.transpose(0, -1)] * 2, -1)[..., 0].transpose(0, -1)",
        ]
    return [*lines, f"case = Case({case.label!r}, quantities)"]


# ------------------------------------------------------------------------------------------------ pieces


def _presenting(judge: Judge) -> list[str]:
    """Where the batch is handed over as its trainer holds it."""
    if not needs_presenting(judge.conventions):
        return []
    return [
        "from gradcheck.conventions import declare",
        "from gradcheck.oracle.arrangement import presented",
        "own = implementation",
        f"declared = declare({judge.conventions.describe()})",
        "implementation = lambda case: own(presented(declared, case))",
    ]


def package_of(folder: Path) -> tuple[str, Path]:
    """The package that a folder is, ``"outer.inner."``, and the folder that it is imported from; as pytest does."""
    package = ""
    while (folder / "__init__.py").is_file():
        package, folder = f"{folder.name}.{package}", folder.parent
    return package, folder


def _import(subject: Subject) -> list[str]:
    if "::" in subject.source:
        file, _, name = subject.source.partition("::")
        path = Path(file).resolve()
        package, root = package_of(path.parent)
        folders = [str(path.parent)] if root == path.parent else [str(path.parent), str(root)]
        return [
            "import importlib.util, sys",
            f"sys.path[:0] = {folders!r}",
            f"spec = importlib.util.spec_from_file_location({package + 'judged'!r}, {str(path)!r})",
            "judged = sys.modules[spec.name] = importlib.util.module_from_spec(spec)",
            "spec.loader.exec_module(judged)",
            f"implementation = getattr(judged.{name}, 'gradcheck_function', judged.{name})",
        ]
    if ":" in subject.source:
        module, _, name = subject.source.partition(":")
        return [
            "import sys",
            f"sys.path.insert(0, {str(Path.cwd())!r})",
            f"import {module} as judged",
            f"implementation = getattr(judged.{name}, 'gradcheck_function', judged.{name})",
        ]
    return [f"# put your function {subject.name!r} here, as", "# implementation = ..."]
