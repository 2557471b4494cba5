r"""What a case holds, and a test file to begin with: ``gradcheck fields`` and ``gradcheck new``."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from derivations.notation import quantity
from derivations.writing.render import text
from derivations.writing.wrapping import wrap_words
from gradcheck.case import Case
from gradcheck.console import in_characters, width
from gradcheck.conventions import Conventions, declare
from gradcheck.doors.check import declared_by
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.arrangement import needs_presenting, presented
from gradcheck.oracle.judge import Judge
from gradcheck.problems.building import Spec

__all__ = ["Field", "declared", "fields_of", "fields_text", "skeleton"]

_OF_TRAINERS = {
    "sigmas": "the sampler's grid of times, from 1 down to 0",
    "step_index": "where t stands in sigmas (integers)",
    "timestep": "1000·t, as schedulers count",
    "clip_range": "the declared clip range, below and above",
    "adv_clip_max": "the declared bound of the advantage",
    "v_cond": "velocity predicted with the prompt; the loss is differentiated in it",
    "v_uncond": "velocity predicted without the prompt; it is live too",
    "guidance_scale": "guidance scale w: the velocity is v_uncond + w·(v_cond − v_uncond)",
    "partner": "index of the other sample of the pair (integers)",
    "group_ids": "number of each sample's group (integers)",
}
"""Quantities that are in no formula."""


@dataclass(frozen=True)
class Field:
    """One quantity of a case: its name, its symbol in formulas, the shape of its tensor, and what it is."""

    name: str
    symbol: str
    shape: str
    meaning: str


def fields_of(conventions: Conventions) -> list[Field]:
    """Everything that a case of this declaration holds, in the order in which it holds it."""
    judge = Judge(Adapter(lambda case: case.output.sum(), "fields"), conventions)
    case = judge.handed(judge.case(Spec(4, (3, 2), seed=1)))
    if needs_presenting(conventions):
        case = presented(conventions, case)
    return [_field(name, getattr(case, name), case) for name in case.names]


def _field(name: str, value: Any, case: Case) -> Field:
    if name in _OF_TRAINERS:
        return Field(name, "", _shape(value, case), _OF_TRAINERS[name])
    row = quantity(name)
    return Field(name, text(row.symbol), _shape(value, case), row.meaning)


def _shape(value: Any, case: Case) -> str:
    if not isinstance(value, Tensor):
        return "a number"
    out = case.output.shape
    if value.shape == out:
        return "(B, T, *latent)" if _has_steps(case) else "(B, *latent)"
    if value.ndim == 2 and value.shape == out[:2]:
        return "(B, T)" if _has_steps(case) else "(B, L)"
    if value.ndim == 3 and value.shape == out[:3]:
        return "(B, T, L)"
    return "(B,)" if value.shape == out[:1] else "(steps + 1,)"


def _has_steps(case: Case) -> bool:
    times = [getattr(case, name) for name in ("t", "dt") if name in case.names]
    return any(isinstance(x, Tensor) and x.ndim == 2 for x in times)


def fields_text(conventions: Conventions) -> str:
    """The table, for a terminal."""
    found = fields_of(conventions)
    rows = [("name", "symbol", "shape", "what it is"), *((f.name, f.symbol, f.shape, f.meaning) for f in found)]
    cells = [tuple(map(in_characters, row)) for row in rows]
    sizes = [max(len(row[i]) for row in cells) for i in range(3)]
    lines = [in_characters(f"A case of {conventions.describe()} holds, each as case.NAME:"), ""]
    for *heads, meaning in cells:
        head = "  ".join(f"{cell:{size}}" for cell, size in zip(heads, sizes, strict=True)) + "  "
        lines += wrap_words(meaning, width(), head)
    whole = _WHOLE.get(conventions.algorithm, "") if conventions.pairs is None and conventions.groups is None else ""
    lines += ["", *wrap_words(in_characters(_SHAPES + whole), width())]
    return "\n".join(lines)


_SHAPES = (
    "B is the batch and *latent the shape of one sample, (16, 64, 64) for instance. case.expand(x) gives a tensor of "
    "shape (B,) the latent's number of axes. The loss is differentiated in the first one. `gradcheck new` writes a "
    "test that begins with them."
)


_WHOLE = {
    "diffusion_dpo": " If your loss takes whole pairs, declare how they lie: --declare pairs=halves, or adjacent.",
    "dgpo": " If your loss takes whole groups, declare their size: --declare groups=8.",
}
"""What a case holds otherwise, of losses that are stated as one sample of several sees them."""


def skeleton(conventions: Conventions) -> str:
    """A test file that names everything that a case holds, and fails until its loss is filled in."""
    found = fields_of(conventions)
    derivation = conventions.derivation
    stem = "loss" if conventions.loss else conventions.algorithm
    sizes = [max(len(f"{f.name} = case.{f.name}") for f in found), max(len(f.shape) for f in found)]
    lines = [
        f'"""{"A loss of your own" if conventions.loss else derivation.title}, judged by gradcheck.',
        "",
        "Fill in the function, then run `gradcheck check` on this file, or pytest.",
        '"""',
        "",
        "import gradcheck",
        "",
        "",
        f"@gradcheck.conforms({_call(conventions)})",
        f"def test_{stem}(case):",
        *(f"    {f'{f.name} = case.{f.name}':{sizes[0]}}  # {f.shape:{sizes[1]}}  {f.meaning}" for f in found),
        "",
        f"    {_return(conventions)}",
        '    raise NotImplementedError("compute your loss from the quantities above and return it")',
    ]
    return "\n".join(lines) + "\n"


def _return(conventions: Conventions) -> str:
    if conventions.batch_reduction == "none":
        return "# return a loss per sample, of shape (B,), differentiable in the first quantity"
    reduced = "averaged" if conventions.batch_reduction == "mean" else "summed"
    return f"# return one number, {reduced} over the batch, differentiable in the first quantity"


def _call(conventions: Conventions) -> str:
    """The declaration as the decorator's arguments, in double quotes."""
    words = conventions.describe()
    return words.replace("'", '"') if '"' not in words else words


def declared(arguments: argparse.Namespace) -> Conventions:
    """What a command line declares: an algorithm, a preset or a loss in one line, and conventions."""
    algorithm, preset, pairs = declared_by(arguments) or (None, None, {})
    return declare(algorithm, preset=preset, **pairs)
