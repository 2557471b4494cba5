r"""Judging answers: gradients that some program wrote, against what the vectors' files demand, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gradcheck.catalogue import entries
from gradcheck.devices import dtype_name
from gradcheck.errors import InputError
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import Comparison, compare, compare_branches, error_ratios, judgeable, with_ties
from gradcheck.vectors.layout import VectorCase, VectorSet, as_dtype, read_manifest, read_tensors

__all__ = ["Answered", "CaseVerdict", "check"]

_Problem = tuple[str, str, str]


@dataclass(frozen=True)
class CaseVerdict:
    """What became of one case; ``loss`` is None where the answers hold no losses."""

    case: VectorCase
    gradient: Comparison
    loss: Comparison | None

    @property
    def holds(self) -> bool:
        return self.gradient.holds and (self.loss is None or self.loss.holds)


@dataclass(frozen=True)
class Answered:
    """What became of one file of answers.

    Attributes:
        label: of the loss.
        dtype: the file's precision.
        cases: verdicts, in the order in which failures are best read; none where the file could not be judged.
        problems: what is missing, superfluous, misshapen or not finite.
        factor: where every gradient is one number times what is demanded, that number.
    """

    label: str
    dtype: str
    cases: tuple[CaseVerdict, ...]
    problems: tuple[_Problem, ...] = ()
    factor: float | None = None

    @property
    def holds(self) -> bool:
        return not self.problems and all(c.holds for c in self.cases)

    @property
    def failed(self) -> tuple[CaseVerdict, ...]:
        return tuple(c for c in self.cases if not c.holds)


def check(folder: Path, answers: Path, *names: str, dtypes: Sequence[str] = ()) -> tuple[Answered, ...]:
    """Judge the answers to the vectors in a folder, or to those of the named losses, in all precisions or some.

    Files of answers that nothing asked for are a problem of their own where no name and no precision was given.

    Raises:
        InputError: there are no such vectors, names or precisions, or no folder of answers.
    """
    sets = _chosen(folder, read_manifest(folder), names)
    known = {dtype for s in sets for dtype in s.files}
    if not known.issuperset(dtypes):
        raise InputError(("--dtype", ", ".join(dtypes), f"of {', '.join(sorted(known, reverse=True))}"))
    if not answers.is_dir():
        raise InputError(("ANSWERS", str(answers), "a folder with a safetensors file for each of the vectors'"))
    judged = [
        _judged(folder, answers, s, dtype)
        for dtype in dtypes or sorted(known, reverse=True)
        for s in sets
        if dtype in s.files
    ]
    if not names and not dtypes:
        judged += _superfluous(answers, {file for s in sets for file, _ in s.files.values()})
    return tuple(judged)


def _chosen(folder: Path, sets: tuple[VectorSet, ...], names: tuple[str, ...]) -> tuple[VectorSet, ...]:
    wanted = {e.label for e in entries(*names)} if names else {s.label for s in sets}
    absent = sorted(wanted - {s.label for s in sets}) if names else []
    if absent:
        raise InputError(*(("NAME", name, f"one of those in {folder}") for name in absent))
    return tuple(s for s in sets if s.label in wanted)


def _superfluous(answers: Path, known: set[str]) -> Iterator[Answered]:
    for file in sorted(answers.glob("*.safetensors")):
        if file.name not in known:
            yield Answered(
                file.name, "", (), ((str(file), "answers to no vectors", "only files of the vectors' names"),)
            )


def _judged(folder: Path, answers: Path, vectors: VectorSet, dtype: str) -> Answered:
    file, sha256 = vectors.files[dtype]
    try:
        demanded = read_tensors(folder / file, "DIR", sha256)
        given = read_tensors(answers / file, "ANSWERS")
    except InputError as error:
        return Answered(vectors.label, dtype, (), tuple(error.problems))
    try:
        return _compared(vectors, dtype, demanded, given)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        got = f"{file}, in which {type(error).__name__} {error} is in the way"
        return Answered(vectors.label, dtype, (), (("DIR", got, "vectors as `gradcheck vectors export` writes them"),))


def _compared(vectors: VectorSet, dtype: str, demanded: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Answered:
    file, _ = vectors.files[dtype]
    problems = tuple(
        (f"{file}: {name}", got, wanted) for name, got, wanted in _problems(vectors, dtype, demanded, given)
    )
    if problems:
        return Answered(vectors.label, dtype, (), problems)
    cases = tuple(_verdict(case, demanded, given, as_dtype(dtype)) for case in vectors.cases)
    factor = None if cases[0].gradient.holds else _factor(vectors, demanded, given, as_dtype(dtype))
    return Answered(vectors.label, dtype, cases, factor=factor)


# ------------------------------------------------------------------------------------------- what was handed in


def _problems(
    vectors: VectorSet, dtype: str, demanded: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> Iterator[_Problem]:
    shapes = {
        f"{g.name}/{kind}": demanded[f"{g.name}/{kind}"].shape for g in vectors.groups.values() for kind in _KINDS
    }
    has_losses = any(name.endswith("/loss") for name in given)
    for name in sorted(given.keys() - shapes.keys()):
        yield name, "a tensor that nothing asks for", f"only {', '.join(shapes)}"
    for name, shape in shapes.items():
        wanted = f"{dtype} of shape {tuple(shape)}"
        if name not in given:
            if has_losses or name.endswith("/gradient"):
                yield name, "nothing", wanted
        elif given[name].shape != shape or dtype_name(given[name].dtype) != dtype:
            yield name, f"{dtype_name(given[name].dtype)} of shape {tuple(given[name].shape)}", wanted
        else:
            yield from _not_finite(vectors, name, given[name], demanded)


_KINDS = ("gradient", "loss")


def _not_finite(vectors: VectorSet, name: str, given: Tensor, demanded: Mapping[str, Tensor]) -> Iterator[_Problem]:
    """The first NaN or infinity of a tensor, where the precision allows a finite number."""
    bad = ~given.isfinite() & judgeable(demanded[name], demanded[f"{name}_scale"], given.dtype)
    if bool(bad.any()):
        at = tuple(int(i) for i in bad.nonzero()[0])
        inside = (c for c in vectors.cases if c.group == name.partition("/")[0] and c.rows[0] <= at[0] < c.rows[1])
        yield name, f"{float(given[at])} at {at}, in the case {next(inside).name}", "a finite number"


# --------------------------------------------------------------------------------------------------- the verdict


def _verdict(
    case: VectorCase, demanded: Mapping[str, Tensor], given: Mapping[str, Tensor], dtype: torch.dtype
) -> CaseVerdict:
    def rows(source: Mapping[str, Tensor], kind: str) -> Tensor | None:
        tensor = source.get(f"{case.group}/{kind}")
        return None if tensor is None else tensor[slice(*case.rows)]

    gradient, scale, observed = rows(demanded, "gradient"), rows(demanded, "gradient_scale"), rows(given, "gradient")
    assert gradient is not None
    assert scale is not None
    assert observed is not None
    branches, open_rows = [(gradient, scale)], torch.zeros(())
    other, undecided = rows(demanded, "other_gradient"), rows(demanded, "undecided")
    if other is not None and undecided is not None and bool(undecided.any()):
        branches, open_rows = (
            with_ties([(gradient, scale), (other, scale)]),
            undecided.reshape(-1, *(1,) * (other.ndim - 1)),
        )
    loss, loss_scale, value = rows(demanded, "loss"), rows(demanded, "loss_scale"), rows(given, "loss")
    compared = None
    if value is not None and loss is not None and loss_scale is not None:
        compared = compare(value, loss, loss_scale, dtype)
    return CaseVerdict(case, compare_branches(observed, branches, open_rows.bool(), dtype), compared)


def _factor(
    vectors: VectorSet, demanded: Mapping[str, Tensor], given: Mapping[str, Tensor], dtype: torch.dtype
) -> float | None:
    """The number that every gradient is too large by, read off the first case and tried on all decided rows."""
    first = vectors.cases[0]
    name = f"{first.group}/gradient"
    g, required = (x[name][slice(*first.rows)].to(torch.float64) for x in (given, demanded))
    factor = float((g * required).sum() / (required * required).sum())
    for group in vectors.groups:
        name = f"{group}/gradient"
        keep = ~demanded.get(f"{group}/undecided", torch.zeros(len(given[name]), dtype=torch.bool))
        scaled, scale = demanded[name] * factor, demanded[f"{name}_scale"] * max(abs(factor), 1.0)
        if bool((error_ratios(given[name], scaled, scale, dtype)[keep] > THRESHOLD).any()):
            return None
    return factor
