"""Answers in torch: a loss by hand, or a wrong one, run on every case of a folder of vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import entry

Loss = Callable[[Case], Tensor]


def manifest(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return data


def answer(
    folder: Path,
    answers: Path,
    *labels: str,
    wrong: Callable[[Loss], Loss] | None = None,
    losses: bool = True,
    device: str = "cpu",
) -> None:
    """Answer the labelled vectors, or all, with the losses by hand, or with what ``wrong`` makes of them."""
    answers.mkdir()
    for vectors in manifest(folder)["vectors"]:
        if labels and vectors["label"] not in labels:
            continue
        right = entry(vectors["algorithm"], vectors["variant"]).loss
        for file in vectors["files"].values():
            given = load_file(folder / file["name"], device)
            out = _answered(vectors, given, wrong(right) if wrong else right)
            save_file({k: x for k, x in out.items() if losses or k.endswith("/gradient")}, answers / file["name"])


def _answered(vectors: dict[str, Any], tensors: dict[str, Tensor], loss: Loss) -> dict[str, Tensor]:
    out = {}
    for group in (g["name"] for g in vectors["groups"]):
        like = tensors[f"{group}/v_theta"]
        out |= {f"{group}/gradient": torch.full_like(like, torch.nan), f"{group}/loss": like.new_empty(len(like))}
    for case in vectors["cases"]:
        group, rows = case["group"], slice(*case["rows"])
        given = {name.removeprefix(f"{group}/"): x[rows] for name, x in tensors.items() if name.startswith(f"{group}/")}
        v = given.pop("v_theta").clone().requires_grad_()
        value = loss(Case(vectors["label"], {**given, **case["numbers"], "v_theta": v}))
        gradient = torch.zeros_like(v)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), v)
        out[f"{group}/gradient"][rows] = gradient
        out[f"{group}/loss"][rows] = value.detach()
    return out
