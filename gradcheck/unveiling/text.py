r"""A finding of unveil, in plain text with LaTeX beside it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

import sympy as sp

from derivations.grammar.kinks import shown
from derivations.notation import quantity
from derivations.writing.render import latex, text
from gradcheck.derived.masks import mask_lines, mask_names
from gradcheck.reading.xray import formula_of
from gradcheck.unveiling.character import POLICIES
from gradcheck.unveiling.look import Term
from gradcheck.unveiling.unveil import Unveiled
from gradcheck.unveiling.weights import said

__all__ = ["unveiled_text"]

_WIDTH = 110
_DIGITS = 6


def unveiled_text(found: Unveiled) -> str:
    """The finding."""
    where = found.process + (f", on {found.sde} steps" if found.sde else "")
    lines = [found.name, f"  process    {where}"]
    if found.axes is not None:
        lines.append(_wrapped("latents", f"of {found.axes} axes besides the batch's alone: it raises on others"))
    if found.reason:
        lines.append(_wrapped("formula", found.reason))
    if found.gradient is not None and found.weight is not None and found.target is not None:
        lines += _formulas(found.gradient, found.weight, found.target, found)
    elif found.terms and found.spanned:
        for t in found.terms:
            lines += _term(t)
    if found.clip:
        lines.append(_wrapped("clip", found.clip))
    if found.precision == "float32" and not found.reason:
        left = f"up to {found.residual:.1g} of a gradient is left over"
        lines.append(f"  precision  the formulas hold to float32's rounding, not to float64's; {left}")
    lines.append(_wrapped("catalogue", "; ".join(found.matches) or _NO_MATCH[bool(found.reason)]))
    return "\n".join(lines)


def _formulas(gradient: sp.Expr, weight: sp.Expr, target: sp.Expr, found: Unveiled) -> list[str]:
    names = mask_names(gradient) if found.derivation is not None else {}

    def plain(e: sp.Expr) -> str:
        return text(shown(formula_of(e, _DIGITS).xreplace(names)), of=found.derivation)

    def marked(e: sp.Expr) -> str:
        return latex(shown(formula_of(e, _DIGITS).xreplace(names)), of=found.derivation)

    lines = []
    if found.source:
        lines.append(_wrapped("formula", f"{found.source}: the gradient is the derived one on every problem tried"))
    lines += [
        f"  gradient   {plain(gradient)}   (per sample{_PER[found.reduction]})",
        f"             {marked(gradient)}",
        *(f"             {line}" for line in mask_lines(names, plain, plain=True)),
        f"  target     {plain(target)}   with weight {plain(weight)}",
        f"             {marked(target)}",
    ]
    if found.policy:
        lines += [_wrapped("policy", POLICIES[found.policy]), _wrapped("trust", found.trust)]
    return lines


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
        lines.append(f"             {'':12} {text(sp.Float(value, 4))}" + (f" at {at}" if at else ""))
    return lines


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _wrapped(word: str, body: str) -> str:
    whole = re.sub(r"(\S) ([−+=]) ", "\\1\N{NO-BREAK SPACE}\\2\N{NO-BREAK SPACE}", body)  # formulas stay in one piece
    lines = textwrap.fill(whole, _WIDTH, initial_indent=f"  {word:11}", subsequent_indent=" " * 13)
    return lines.replace("\N{NO-BREAK SPACE}", " ")
