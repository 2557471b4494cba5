"""A written step explained: its line, and its gradient on the field's own directions beside the required one."""

from __future__ import annotations

from torch import Tensor

from gradcheck.watching.evidence import evidence_of
from gradcheck.watching.given import Given
from gradcheck.watching.lines import StepLine
from gradcheck.watching.precision import Precision
from gradcheck.watching.problem import step_problem
from gradcheck.watching.reading import on_directions
from gradcheck.watching.step import Context

__all__ = ["explained"]


def explained(line: StepLine, context: Context, given: Given, gradient: Tensor) -> str:
    """The findings in plain text."""
    rows = [
        f"[gradcheck] replay: {line.verdict}" + (f" ({', '.join(line.causes)})" if line.causes else ""),
        f"  declared     {context.declared.conventions.describe()}",
    ]
    if line.because:
        rows.append(f"  because      {line.because}")
    if line.ratio is not None:
        rows.append(f"  test ratio   {line.ratio:.3g} (4 passes)")
    if line.resolution is not None:
        rows.append(f"  resolution   an error of {line.resolution:.2g} of the gradient would be seen")
    if line.factor is not None:
        rows.append(f"  constant     {line.factor}")
    if line.importance_ratio is not None:
        rows.append("  ratio        {:.6g} to {:.6g}".format(*line.importance_ratio))
    rows += [f"  {name:12} {status}" for name, status in line.checks.items()]
    problem, _ = step_problem(context.declared.conventions, given)
    if problem is not None and not bool(problem.left_out.any()):
        precision = Precision.of(given, context.declared.conventions.computes_in)
        e = evidence_of(problem, given, gradient, context.constants_of(given).expected, precision)
        observed, required = on_directions(e)
        rows += ["  observed     " + observed, "  required     " + required]
    return "\n".join(rows)
