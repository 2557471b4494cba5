r"""A finding of unveil, in plain text with LaTeX beside it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import sympy as sp

from derivations.notation import quantity
from derivations.render import latex, text
from gradcheck.oracle.character import POLICIES
from gradcheck.oracle.look import Term
from gradcheck.oracle.unveil import Unveiled
from gradcheck.oracle.weights import said
from gradcheck.oracle.xray import formula_of

__all__ = ["unveiled_text"]

_WIDTH = 110
_DIGITS = 6


def unveiled_text(found: Unveiled) -> str:
    """The finding."""
    where = found.process + (f", on {found.sde} steps" if found.sde else "")
    lines = [found.name, f"  process    {where}"]
    if found.reason:
        lines.append(_wrapped("formula", found.reason))
    if found.gradient is not None and found.weight is not None and found.target is not None:
        gradient, weight, target = (formula_of(e, _DIGITS) for e in (found.gradient, found.weight, found.target))
        lines += [
            f"  gradient   {text(gradient)}   (per sample{_PER[found.reduction]})",
            f"             {latex(gradient)}",
            f"  target     {text(target)}   with weight {text(weight)}",
            f"             {latex(target)}",
            _wrapped("policy", POLICIES[found.policy]),
            _wrapped("trust", found.trust),
        ]
    elif found.terms and "outside" not in found.reason:
        for t in found.terms:
            lines += _term(t)
    if found.clip:
        lines.append(_wrapped("clip", found.clip))
    if found.precision == "float32" and not found.reason:
        left = f"up to {found.residual:.1g} of a gradient is left over"
        lines.append(f"  precision  the formulas hold to float32's rounding, not to float64's; {left}")
    lines.append(_wrapped("catalogue", "; ".join(found.matches) or _NO_MATCH[bool(found.reason)]))
    return "\n".join(lines)


_NO_MATCH = {False: "none: no entry has this gradient", True: "none was recognised, as no formula was"}
_PER = {
    "mean": ", averaged over the batch",
    "sum": ", summed over the batch",
    "none": ", returned per sample",
    "": "",
}


def _term(t: Term) -> list[str]:
    if t.formula is not None:
        return [f"             {t.direction:12} {text(formula_of(t.formula, _DIGITS))}"]
    names = [text(quantity(name).symbol) for name in t.names] + (["the batch's other samples"] if t.mixes else [])
    what = (
        f"a function of {_listed(names)} that the library of formulas does not have; for example"
        if names
        else "no formula"
    )
    lines = [f"             {t.direction:12} {what}"]
    for value, scalars in t.examples:
        at = ", ".join(f"{text(said(s))} = {text(sp.Float(x, 4))}" for s, x in scalars.items())
        lines.append(f"             {'':12} {text(sp.Float(value, 4))} at {at}")
    return lines


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _wrapped(word: str, body: str) -> str:
    whole = re.sub(r"(\S) ([−+=]) ", "\\1\N{NO-BREAK SPACE}\\2\N{NO-BREAK SPACE}", body)  # formulas stay in one piece
    lines = textwrap.fill(whole, _WIDTH, initial_indent=f"  {word:11}", subsequent_indent=" " * 13)
    return lines.replace("\N{NO-BREAK SPACE}", " ")
