r"""The target and the equivalent loss as a Python module in torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from derivations.writing.torchgen import torch_source
from gradcheck import tensor_ops

if TYPE_CHECKING:
    from gradcheck.deriving.result import Derived

__all__ = ["module_source"]

_LOSS = '''
def loss({arguments}):
    """The equivalent loss, per sample, shape (B,); its gradient in {output} is the original loss's."""
    with torch.no_grad():
        weight, point = target({arguments})
    return (weight * ({output} - point) ** 2).flatten(1).sum(1)
'''


def module_source(derived: Derived) -> str:
    r"""Source text of ``target(…)``, which returns (weight, target), and of ``loss(…)``.

    Latents have shape (B, \*latent), per-sample scalars (B, 1, …, 1), one-number quantities are numbers.
    """
    d = derived.derivation if derived.output is None else derived.output.derivation
    output = d.output.name
    body, arguments = torch_source(d, "target", {"weight": d.weight, "target": d.target})
    if output not in arguments:
        body = body.replace("def target(", f"def target({output}, ", 1).replace(f"({output}, )", f"({output})")
        arguments = (output, *arguments)
    head, _, rest = body.partition("\n")
    doc = r'    """Weight and target. Latents (B, *latent), per-sample scalars (B, 1, ..., 1), others are numbers."""'
    helpers = sorted(name for name in tensor_ops.__all__ if re.search(rf"\b{name}\(", rest))
    imports = [f"from gradcheck.tensor_ops import {', '.join(helpers)}"] if helpers else []
    source = " ".join(derived.statement.source.split())
    lines = [
        f"# weight * ||{output} - sg(target)||^2 for the loss {source.encode('ascii', 'backslashreplace').decode()}"
    ]
    if not derived.holds:
        lines.append("# NOT VERIFIED: do not rely on this.")
    lines += ["import math", ""] if "math." in rest else []
    lines += ["import torch", *([""] if imports else []), *imports, "", ""]
    return "\n".join([*lines, head, doc, rest]) + _LOSS.format(arguments=", ".join(arguments), output=output)
