"""Whole gradients off a model that a trainer has wrapped, sharded or left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradcheck.judging.adapter import AdapterError

__all__ = ["flat_parameters", "read_gradient"]

_WRAPPED = ("module.", "_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


def flat_parameters(model: nn.Module, names: Mapping[str, tuple[int, ...]]) -> Tensor:
    """The trained parameters in one row, (P,), on the CPU; a collective operation where they are sharded."""
    found = _by_name(model)
    return _row({name: _whole(found[name].detach()) for name in names if name in found}, names)


def read_gradient(
    model: nn.Module, returned: Any, names: Mapping[str, tuple[int, ...]]
) -> tuple[Tensor, tuple[str, ...]]:
    """The gradient in one row, (P,) in float64 on the CPU, and the parameters that have none (0 in the row).

    Args:
        model: as the step left it.
        returned: what the step returned: ``None``, or gradients by parameter name.
        names: of the trained parameters, with their shapes.

    Raises:
        AdapterError: parameters are missing, or a gradient has another shape than its parameter.
    """
    if returned is not None and not isinstance(returned, Mapping):
        raise AdapterError(
            f"the step returned a {type(returned).__name__}; wanted None (the gradients are in .grad), or a mapping "
            "from parameter names to gradients"
        )
    if returned is not None:
        given = {_plain(name): gradient for name, gradient in returned.items()} | dict(returned)
        return _row({n: _whole(g) for n, g in given.items() if g is not None}, names), tuple(
            n for n in names if given.get(n) is None
        )
    parameters = _by_name(model)
    lost = [name for name in names if name not in parameters]
    if lost:
        raise AdapterError(
            f"after the step the model has no parameter {lost[0]!r}: where a wrapper replaces parameters, return the "
            "gradients as a mapping from names to tensors"
        )
    rows, absent = {}, []
    for name in names:
        p = parameters[name]
        if p.grad is None:
            absent.append(name)
        # every rank takes part in collecting a sharded gradient, also one that has none
        rows[name] = _whole(torch.zeros_like(p) if p.grad is None else p.grad)
    return _row(rows, names), tuple(absent)


def _whole(x: Any) -> Tensor:
    whole: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return whole.detach()


def _row(found: Mapping[str, Tensor], names: Mapping[str, tuple[int, ...]]) -> Tensor:
    parts = []
    for name, shape in names.items():
        x = found.get(name)
        if x is not None and tuple(x.shape) != shape:
            raise AdapterError(f"the gradient of {name} has shape {tuple(x.shape)}; wanted {shape}")
        zeros = torch.zeros(torch.Size(shape).numel(), dtype=torch.float64)
        parts.append(zeros if x is None else x.to("cpu", torch.float64).flatten())
    return torch.cat(parts)


def _by_name(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = dict(model.named_parameters())
    return {_plain(name): p for name, p in found.items()} | found


def _plain(name: str) -> str:
    for prefix in _WRAPPED:
        name = name.replace(prefix, "") if prefix != "module." else name.removeprefix(prefix)
    return name
