r"""How a script shows each obligation's failure: the lines between the case and the assertion.

One gradient beside the required one, the same sample's gradient in two batches, two calls on one case …  Bounds are
those of the check, as literals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.oracle.checks.batch import companies, halves, rolled, rows_of, share_of
from gradcheck.oracle.checks.behaviour import DETACHED
from gradcheck.oracle.checks.gradient import squared_distance_gradient, stated_value
from gradcheck.oracle.checks.twice import of_two
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.problem import per_sample
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import judgeable

__all__ = [
    "compiled",
    "determinism",
    "equivalence",
    "finite",
    "gradient",
    "inputs_untouched",
    "literal",
    "micro_batching",
    "permutation",
    "sample_independence",
    "stop_gradient",
    "value",
]


def literal(value: Tensor | float | Case) -> str:
    """A tensor as source text that gives back the same bits."""
    if not isinstance(value, Tensor):
        return repr(value)
    data = value.detach().cpu()
    device = f", device={str(value.device)!r}" if value.device.type != "cpu" else ""
    return f"torch.tensor({data.tolist()!r}, dtype={data.dtype}{device})"


# ------------------------------------------------------------------------------------- one case's numbers


def gradient(judge: Judge, case: Case) -> list[str]:
    """Its gradient beside the derived one."""
    wanted = judge.required(case)
    required, scale = wanted.nearest(judge.observe(case).gradient)
    return [*_OBSERVED, *_compared(required, scale, wanted.dtype)]


def equivalence(judge: Judge, case: Case) -> list[str]:
    """Its gradient beside that of the squared distance."""
    return [
        *_OBSERVED,
        f"# required: the gradient of weight · ‖{case.output_name} − sg(target)‖²",
        *_compared(*squared_distance_gradient(judge, case)),
    ]


def value(judge: Judge, case: Case) -> list[str]:
    """Its value beside the stated one."""
    return ["observed = implementation(case).detach().reshape(-1)", *_compared(*stated_value(judge, case))]


def compiled(judge: Judge, case: Case) -> list[str]:
    """Its gradient, compiled, beside the one as it is."""
    wanted, plain = judge.required(case), judge.observe(case).gradient
    bound = _bound(plain, of_two(judge, case, wanted, plain), wanted.dtype)
    return [
        "case.output.requires_grad_()",
        "(required,) = torch.autograd.grad(implementation(case).sum(), case.output)",
        "implementation = torch.compile(implementation, dynamic=False)",
        *_OBSERVED[1:],
        f"bound = {literal(bound)}  # of two evaluations",
        *_COMPARISON,
    ]


_OBSERVED = [
    "case.output.requires_grad_()",
    "(observed,) = torch.autograd.grad(implementation(case).sum(), case.output)",
]
_COMPARISON = [
    "difference = (observed.double() - required).abs()",
    "print('observed', observed, 'required', required, 'difference', difference, sep='\\n')",
    "holds = ((difference <= bound) | bound.isinf()).all()",
]


def _compared(required: Tensor, scale: Tensor, dtype: torch.dtype) -> list[str]:
    bound = _bound(required, scale, dtype)
    return [f"required = {literal(required.detach())}", f"bound = {literal(bound)}", *_COMPARISON]


def _bound(required: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest difference that passes; infinite where the precision allows no judgement."""
    scale = scale.expand(required.shape)
    bound = THRESHOLD * unit_roundoff(dtype) * scale
    return torch.where(judgeable(required.to(torch.float64), scale, dtype), bound, torch.inf)


# ------------------------------------------------------------------------------------- across the batch

_SAMPLES = [
    "def gradient(*samples):",
    '    """Your gradient for a batch of some of the samples, in the order in which they are named."""',
    "    rows = {n: x[list(samples)] if n in PER_SAMPLE else x for n, x in quantities.items()}",
    "    part = Case(case.label, rows)",
    "    part.output.requires_grad_()",
    "    (found,) = torch.autograd.grad(implementation(part).sum(), part.output)",
    "    return found.double()",
    "",
]


def _related(judge: Judge, case: Case, *body: str, scale: Tensor, dtype: torch.dtype, like: Tensor) -> list[str]:
    names = per_sample(case)
    return [
        f"PER_SAMPLE = {names!r}",
        *_SAMPLES,
        *body,
        f"bound = {literal(_bound(like, scale, dtype))}  # of two evaluations",
        *_COMPARISON,
    ]


def _arguments(rows: list[int]) -> str:
    return ", ".join(map(str, rows))


def sample_independence(judge: Judge, case: Case) -> list[str]:
    """One sample's gradient in two batches."""
    first, second = companies(len(case.output), judge.unit)
    part = rows_of(case, first)
    wanted, before = judge.required(part), judge.observe(part).gradient
    alike = share_of(judge, rows_of(case, second), part)
    return _related(
        judge,
        case,
        "# sample 0's gradient, in two batches of one size that share nothing else",
        f"required = gradient({_arguments(first)})[:{judge.unit}]",
        f"observed = gradient({_arguments(second)})[:{judge.unit}]" + (f" * {alike!r}" if alike != 1 else ""),
        scale=of_two(judge, part, wanted, before)[: judge.unit],
        dtype=wanted.dtype,
        like=before[: judge.unit],
    )


def permutation(judge: Judge, case: Case) -> list[str]:
    """The gradients in two orders of the batch."""
    order = rolled(len(case.output), judge.unit)
    wanted, before = judge.required(case), judge.observe(case).gradient
    return _related(
        judge,
        case,
        "# the samples' gradients, in two orders of the batch",
        f"required = gradient({_arguments(sorted(order))})[{order!r}]",
        f"observed = gradient({_arguments(order)})",
        scale=of_two(judge, case, wanted, before)[order],
        dtype=wanted.dtype,
        like=before[order],
    )


def micro_batching(judge: Judge, case: Case) -> list[str]:
    """The batch at once, and in two halves."""
    batch = len(case.output)
    wanted, whole = judge.required(case), judge.observe(case).gradient
    both = halves(judge, case)
    parts = ", ".join(f"gradient({_arguments(rows)})" + (f" * {share!r}" if share != 1 else "") for rows, share in both)
    return _related(
        judge,
        case,
        "# the batch at once, and in two halves" + (", each times its share" if both[0][1] != 1 else ""),
        f"required = gradient({_arguments(list(range(batch)))})",
        f"observed = torch.cat([{parts}])",
        scale=of_two(judge, case, wanted, whole),
        dtype=wanted.dtype,
        like=whole,
    )


# ----------------------------------------------------------------------------- behaving like a function


def determinism(judge: Judge, case: Case) -> list[str]:
    """Twenty calls on one case."""
    return [
        "case.output.requires_grad_()",
        "results = []",
        "for call in range(20):  # the same case each time",
        "    torch.manual_seed(call)",
        "    loss = implementation(case)",
        "    (gradient,) = torch.autograd.grad(loss.sum(), case.output)",
        "    results.append((loss.detach(), gradient))",
        "    print('call', call, 'loss', loss.tolist(), 'gradient', gradient.flatten().tolist())",
        "first = [x.nan_to_num() for x in results[0]]",
        "holds = all(torch.equal(a, b.nan_to_num()) for result in results for a, b in zip(first, result))",
    ]


def inputs_untouched(judge: Judge, case: Case) -> list[str]:
    """The inputs and settings before and after a call."""
    return [
        "def settings():",
        "    return {",
        "        'the grad mode': torch.is_grad_enabled(),",
        "        'the default dtype': torch.get_default_dtype(),",
        "        'the number of threads': torch.get_num_threads(),",
        "        'the deterministic mode': torch.are_deterministic_algorithms_enabled(),",
        "        'the global seed': torch.initial_seed(),",
        "    }",
        "",
        "case.output.requires_grad_()",
        "before = {n: x.detach().clone() for n, x in quantities.items() if isinstance(x, torch.Tensor)}",
        "settings_before = settings()",
        "implementation(case)",
        "changed = [n for n, x in before.items() if not torch.equal(x.nan_to_num(), quantities[n].nan_to_num())]",
        "changed += [n for n, x in settings_before.items() if x != settings()[n]]",
        "print('changed:', ', '.join(changed) or 'nothing')",
        "holds = not changed",
    ]


def stop_gradient(judge: Judge, case: Case) -> list[str]:
    """What its gradient flows into."""
    return [
        f"DETACHED = {[n for n in DETACHED if n in case.names]!r}",
        "inputs = {n: x.requires_grad_() for n, x in quantities.items()"
        " if isinstance(x, torch.Tensor) and x.is_floating_point()}",
        "gradients = torch.autograd.grad(implementation(case).sum(), list(inputs.values()), allow_unused=True)",
        "leaks = [n for n, g in zip(inputs, gradients) if n in DETACHED and g is not None and bool((g != 0).any())]",
        "print('a gradient flows into', ', '.join(leaks) or 'nothing that must be detached')",
        "holds = not leaks",
    ]


def finite(judge: Judge, case: Case) -> list[str]:
    """Its gradient, where the required one is finite."""
    wanted = judge.required(case)
    finite = judgeable(wanted.gradient, wanted.scale, wanted.dtype)
    return [
        *_OBSERVED,
        f"required = {literal(wanted.gradient.detach())}",
        f"judged = {literal(finite)}",
        "print('observed', observed, 'required', required, sep='\\n')",
        "holds = observed[judged].isfinite().all()",
    ]
