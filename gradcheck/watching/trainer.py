r"""What surrounds the loss: which parameters the gradient reaches, and where else it goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradcheck.watching.faults import Checked, Fault

__all__ = ["Arrivals", "Parameters", "dropout_of", "named_parameters"]

_THROUGH_THE_NETWORK = {"x_t", "x_0", "noise", "t", "timestep", "v_cond", "v_uncond"}
"""Into what a network reads a gradient flows by right: checkpointing asks for it."""


def named_parameters(model: nn.Module | None, parameters: Iterable[Any] | None) -> dict[str, Tensor]:
    """The parameters that must train, by name: the given ones, or those of the model that require grad.

    ``parameters`` may be tensors, pairs (name, tensor), or an optimiser's groups.
    """
    names = {id(p): name for name, p in model.named_parameters()} if model is not None else {}
    if parameters is None:
        return {names[id(p)]: p for p in model.parameters() if p.requires_grad} if model is not None else {}
    out: dict[str, Tensor] = {}
    for i, item in enumerate(parameters):
        for p in item["params"] if isinstance(item, Mapping) else [item]:
            name, tensor = p if isinstance(p, tuple) else (names.get(id(p), f"parameter {len(out)}"), p)
            if not isinstance(tensor, Tensor):
                raise TypeError(f"item {i} is a {type(tensor).__name__}")
            out[str(name)] = tensor
    return out


class Arrivals:
    """Hooks on inputs that came with a graph: whether a gradient other than 0 reaches them in this backward pass."""

    def __init__(self, live: Mapping[str, Tensor]) -> None:
        self.norms = dict.fromkeys(live, 0.0)
        self._handles = [x.register_hook(self._seer(name)) for name, x in live.items()]

    def _seer(self, name: str) -> Any:
        def see(gradient: Tensor) -> None:
            try:
                with torch.no_grad():
                    self.norms[name] += float(gradient.detach().norm())
            except Exception:  # never into the trainer's backward pass
                self.norms[name] = self.norms[name]

        return see

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def checked(self, arrived: bool, guidance: float | None, length: float) -> list[Checked]:
        """What the gradients say, after the backward pass.

        Args:
            arrived: whether a gradient other than 0 reached the network's output.
            guidance: w.
            length: of that gradient.
        """
        faults = [
            Fault(f"live-{name}", f"a gradient flows into {name}: it must be detached (computed under no_grad)")
            for name, norm in self.norms.items()
            if norm != 0 and name not in _THROUGH_THE_NETWORK
        ]
        out = [Checked("detached", tuple(faults))]
        branches = [x for x in ("v_uncond", "v_cond") if x in self.norms]
        if len(branches) == 2 and arrived:
            out.append(Checked("guidance-gradient", tuple(self._branches(guidance, length))))
        return out

    def _branches(self, guidance: float | None, length: float) -> list[Fault]:
        dead = [x for x in ("v_uncond", "v_cond") if self.norms[x] == 0 and guidance != (1 if x == "v_uncond" else 0)]
        if dead:
            sentence = f"no gradient reaches {' and '.join(dead)}: that branch is detached in the guided sum"
            return [Fault("guidance-detached", sentence)]
        if guidance is None:
            return []
        for name, scale in (("v_cond", abs(guidance)), ("v_uncond", abs(1 - guidance))):
            seen = self.norms[name] / length
            if abs(seen - scale) > 0.05 * max(scale, 0.1):
                sentence = (
                    f"the gradient in {name} is {seen:.4g} times that of the guided velocity; it must be {scale:g}"
                )
                return [Fault("guidance-gradient", sentence)]
        return []


class Parameters:
    """The trained parameters before a backward pass, to see which of them it changes the gradient of."""

    def __init__(self, parameters: Mapping[str, Tensor], model: nn.Module | None = None) -> None:
        self._parameters, self._model = parameters, model
        self._before = {name: (p.grad, None if p.grad is None else p.grad._version) for name, p in parameters.items()}

    def checked(self) -> Checked:
        """After the backward pass."""
        name = "parameters"
        frozen = [x for x, p in self._parameters.items() if not p.requires_grad]
        if frozen:
            sentence = f"{_some(frozen, self._parameters)} of what must train does not require grad"
            return Checked(name, (Fault("parameters-frozen", sentence),))
        if self.sharded:
            return Checked(name, unchecked="FSDP gives sharded parameters their gradients after the backward pass")
        missed = [x for x in self._parameters if not self._reached(x)]
        if not missed:
            return Checked(name)
        sentence = f"no gradient reaches {_some(missed, self._parameters)} of what must train"
        own = {id(p) for p in self._model.parameters()} if self._model is not None else set()
        if own and not any(id(self._parameters[x]) in own for x in missed):
            because = "they are not the model's own: the optimiser was made of a copy, or before they were replaced"
            return Checked(name, (Fault("parameters-of-a-copy", f"{sentence}: {because}"),))
        if len(missed) == len(self._parameters):
            return Checked(
                name,
                (
                    Fault(
                        "adapter-off",
                        f"{sentence}: the network ran without its adapters, or with "
                        "other ones, or what was watched is not its output",
                    ),
                ),
            )
        return Checked(name, (Fault("parameters-unreached", sentence),))

    @property
    def sharded(self) -> bool:
        return any(hasattr(kind, "device_mesh") for kind in {type(p) for p in self._parameters.values()})

    @property
    def empty(self) -> bool:
        """Whether no parameter has a gradient now."""
        return not self.sharded and all(p.grad is None for p in self._parameters.values())

    def again(self) -> Checked:
        """After a second backward pass through the same output."""
        name = "parameters"
        twice = [x for x in self._parameters if self._reached(x)]
        if self.sharded or not twice:
            return Checked(name)  # a look at a gradient, by torch.autograd.grad
        sentence = (
            f"a second backward pass went through the same output, and {_some(twice, self._parameters)} of what must "
            "train got its gradient too; what was judged is the first pass alone"
        )
        return Checked(name, (Fault("backward-twice", sentence),))

    def _reached(self, name: str) -> bool:
        before, version = self._before[name]
        now = self._parameters[name].grad
        return now is not None and (now is not before or now._version != version)


def _some(names: list[str], of: Mapping[str, Tensor]) -> str:
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return f"{len(names)} of {len(of)} parameters ({shown})"


def dropout_of(model: nn.Module | None) -> str:
    """The name of a module that drops at random now; empty where there is none."""
    if model is None:
        return ""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            return name
    return ""
