r"""What lies where: the manifest as data, file and tensor names, and reading both with every mistake named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from gradcheck.devices import DTYPES
from gradcheck.errors import InputError
from gradcheck.judging.isolation.memory import available_memory

__all__ = [
    "FORMAT",
    "MANIFEST",
    "VERSION",
    "Group",
    "VectorCase",
    "VectorSet",
    "as_dtype",
    "read_manifest",
    "read_tensors",
]

FORMAT = "gradcheck-vectors"
"""What the manifest calls itself."""

VERSION = 1
"""Of the format: the manifest's fields, the files' layout, and the rule by which answers are judged."""

MANIFEST = "manifest.json"
"""The file that explains the others."""


@dataclass(frozen=True)
class Group:
    r"""Cases with latents of one shape: their tensors are stacked along the first axis.

    Attributes:
        name: the first part of its tensors' names.
        latent: shape of one sample.
        rows: samples of all its cases together.
        tensors: the names' last parts.
    """

    name: str
    latent: tuple[int, ...]
    rows: int
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class VectorCase:
    """One case: rows of a group, numbers that hold for all of them, and its flags."""

    name: str
    flags: tuple[str, ...]
    group: str
    rows: tuple[int, int]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class VectorSet:
    """The vectors of one variant of one algorithm: cases, and a file for each precision with its SHA-256."""

    label: str
    algorithm: str
    variant: str
    groups: Mapping[str, Group]
    cases: tuple[VectorCase, ...]
    files: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> VectorSet:
        """From the manifest's JSON."""
        groups = {
            g["name"]: Group(g["name"], tuple(g["latent"]), int(g["rows"]), tuple(g["tensors"])) for g in data["groups"]
        }
        cases = tuple(
            VectorCase(c["name"], tuple(c["flags"]), c["group"], (c["rows"][0], c["rows"][1]), dict(c["numbers"]))
            for c in data["cases"]
        )
        files = {dtype: (f["name"], f["sha256"]) for dtype, f in data["files"].items()}
        for case in cases:
            start, stop = case.rows
            if not 0 <= start < stop <= groups[case.group].rows:
                raise ValueError(
                    f"case {case.name} has rows {start} to {stop} of a group with {groups[case.group].rows}"
                )
        if not cases or not files:
            raise ValueError(f"{data['label']} has no cases, or no files")
        for dtype in files:
            if dtype not in DTYPES:
                raise ValueError(f"{dtype!r} is none of {', '.join(DTYPES)}")
        for name, _ in files.values():
            if Path(name).name != name:
                raise ValueError(f"{name!r} is not the name of a file beside the manifest")
        return cls(data["label"], data["algorithm"], data["variant"], groups, cases, files)


def read_manifest(folder: Path) -> tuple[VectorSet, ...]:
    """The sets of vectors in a folder.

    Raises:
        InputError: there is no manifest, or it is not one of this format and version.
    """
    file = folder / MANIFEST
    wanted = f"a folder that `gradcheck vectors export` wrote, with {MANIFEST} of format {FORMAT} {VERSION}"
    try:
        data = json.loads(_content(file, _LARGEST_MANIFEST))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(("DIR", f"{folder} ({_said(error)})", wanted)) from None
    try:
        found = data["format"]["name"], data["format"]["version"]
        if found == (FORMAT, VERSION):
            sets = tuple(VectorSet.of(x) for x in data["vectors"])
            if not sets:
                raise ValueError("an empty list of vectors")
            return sets
    except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise InputError(("DIR", f"{file}, where {type(error).__name__} {error} is in the way", wanted)) from None
    raise InputError(("DIR", f"{file} of format {found[0]} {found[1]}", wanted))


def read_tensors(file: Path, argument: str, sha256: str | None = None) -> dict[str, Tensor]:
    """A safetensors file as a whole.

    Raises:
        InputError: it cannot be read, is not safetensors, or its bytes are not those of the checksum.
    """
    try:
        content = _content(file, available_memory() / 3)
    except (OSError, ValueError, MemoryError) as error:
        raise InputError((argument, f"{file} ({_said(error)})", "a safetensors file that can be read")) from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError((argument, f"{file}, whose bytes are not those of the manifest's checksum", "an intact file"))
    try:
        tensors: dict[str, Tensor] = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError((argument, f"{file} ({_said(error)})", "a file in the safetensors format")) from None
    return tensors


_LARGEST_MANIFEST = 1 << 28


def _content(file: Path, most: float) -> bytes:
    """A file's bytes, if it is an ordinary one of a size that one can hold."""
    if file.exists() and not file.is_file():
        raise ValueError("no ordinary file")
    if file.stat().st_size > most:
        raise ValueError(f"{file.stat().st_size / 2**30:.3g} GiB, more than can be held")
    return file.read_bytes()


def _said(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def as_dtype(name: str) -> torch.dtype:
    """``torch.float64`` for ``float64``."""
    found: torch.dtype = getattr(torch, name)
    return found
