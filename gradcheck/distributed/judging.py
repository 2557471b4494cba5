"""Judging a trainer: its gradient on every rank against the law, on every division of the batch."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gradcheck.devices import Device, devices
from gradcheck.distributed.declaration import ATTRIBUTE, Trainer
from gradcheck.distributed.evidence import Evidence, Observed
from gradcheck.distributed.gradients import flat_parameters, read_gradient
from gradcheck.distributed.problems import Layout, Problem, layouts, make_problem
from gradcheck.distributed.processes import Processes, processes
from gradcheck.distributed.required import required
from gradcheck.distributed.verdicts import IDS, declared, no_advantages
from gradcheck.errors import InputError, one_of
from gradcheck.judging.results import Judgement, Outcome, Result
from gradcheck.oracle.subject import Settings

__all__ = ["judge", "judge_on", "usable_gpus"]

T = TypeVar("T")


def judge(step: Callable[..., Any] | Trainer, settings: Settings | None = None, only: Sequence[str] = ()) -> Judgement:
    """Judge one decorated step on the processes of this run; call it on every rank.

    Args:
        step: decorated with :func:`gradcheck.distributed.conforms`.
        settings: device, dtype, max_examples (problems for each division; 2 by default), seed and timeout.
        only: obligations, all by default.

    Returns:
        The judgement, the same on every rank.

    Raises:
        InputError: the step is not decorated, or an option is out of its domain.
        AdapterError: the step raised on some rank.
        GradcheckError: the problems could not be made.
    """
    trainer = step if isinstance(step, Trainer) else getattr(step, ATTRIBUTE, None)
    if trainer is None:
        raise InputError(("step", repr(step), "a function decorated with gradcheck.distributed.conforms"))
    settings = settings or Settings(max_examples=2)
    with processes(usable_gpus(settings.device), settings.timeout) as ranks:
        return judge_on(ranks, trainer, settings, only)


def usable_gpus(choice: str) -> bool:
    """Whether ranks go to GPUs: where that is asked for and each can have one of its own."""
    return choice != "cpu" and _no_gpus() is None


def _no_gpus() -> str | None:
    """``None`` where each of this machine's ranks can have a GPU of its own, else why not."""
    count, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return None if count >= wanted else f"{wanted} ranks need as many GPUs; there are {count}"


def judge_on(ranks: Processes, trainer: Trainer, settings: Settings, only: Sequence[str] = ()) -> Judgement:
    """The same on processes that have met; see :func:`judge`."""
    unknown = [name for name in only if name not in IDS]
    if unknown:
        raise InputError(("obligation", repr(unknown[0]), one_of(unknown[0], IDS, "an obligation")))
    start = time.perf_counter()
    results: list[Result] = []
    printed = ""
    for device in devices(settings.device):
        reason = _no_gpus() if device == "cuda" else None
        if reason is None:
            found, said = _on_device(ranks, trainer, settings, only, device)
            results += found
            printed += said
        else:
            results += _skipped(ranks, trainer, settings, only, device, reason)
    if settings.device == "all" and not torch.cuda.is_available():
        results += _skipped(ranks, trainer, settings, only, "cuda", "torch sees no CUDA device")
    seconds = time.perf_counter() - start
    whole = declared(Observed(trainer, settings, ranks.size))
    return ranks.agreed(lambda: whole.info.judgement(tuple(results), seconds, printed))


def _skipped(
    ranks: Processes, trainer: Trainer, settings: Settings, only: Sequence[str], device: Device, reason: str
) -> tuple[Result, ...]:
    return declared(Observed(trainer, settings, ranks.size), device).rows(Outcome("skipped", detail=reason), only)


@dataclass(frozen=True)
class _Seen:
    """What a step left on one rank: gradient (P,), parameters without one, whether it changed the parameters."""

    gradient: Tensor
    absent: tuple[str, ...]
    changed: bool


def _on_device(
    ranks: Processes, trainer: Trainer, settings: Settings, only: Sequence[str], device: Device
) -> tuple[tuple[Result, ...], str]:
    dtype: torch.dtype = getattr(torch, settings.dtype)
    network = _network(ranks, trainer, settings.seed, dtype)
    names = {n: tuple(p.shape) for n, p in network.named_parameters() if p.requires_grad}
    evidence, untouched, said = [], True, ""
    for problem in _problems(ranks, trainer, settings, only, network, dtype):
        seen, text = _observe(ranks, trainer, problem, network, names, device)
        said = said or text
        untouched = untouched and not any(one.changed for one in seen)
        found = ranks.on_rank_0(partial(_evidence, trainer, settings, problem, seen, network))
        if found is not None:
            evidence.append(found)
    observed = Observed(trainer, settings, ranks.size, tuple(evidence), untouched)
    return ranks.agreed(lambda: declared(observed, device).results(only)), said


def _network(ranks: Processes, trainer: Trainer, seed: int, dtype: torch.dtype) -> nn.Module:
    """The network with rank 0's weights on every rank."""

    def make() -> nn.Module:
        torch.manual_seed(seed)
        return trainer.declaration.make_network().to("cpu", dtype)

    network: nn.Module = ranks.call("the network", make)[0]
    if not any(p.requires_grad for p in network.parameters()):
        raise InputError(("network", "one without trained parameters", "a module with parameters that require grad"))
    weights = ranks.agreed(network.state_dict)
    ranks.call("the network", lambda: network.load_state_dict(weights))
    return network


_KEPT: dict[Hashable, Any] = {}
"""Problems and laws of the last declaration: the steps of one file often share theirs."""


def _kept(family: Hashable, key: Hashable, make: Callable[[], T]) -> T:
    if _KEPT.get("family") != family:
        _KEPT.clear()
        _KEPT["family"] = family
    if key not in _KEPT:
        _KEPT[key] = make()
    found: T = _KEPT[key]
    return found


def _family(trainer: Trainer, settings: Settings, size: int) -> Hashable:
    declaration = trainer.declaration
    return declaration.describe(), declaration.network, settings.seed, settings.dtype, settings.max_examples, size


def _evidence(
    trainer: Trainer, settings: Settings, problem: Problem, seen: list[_Seen], network: nn.Module
) -> Evidence:
    dtype: torch.dtype = getattr(torch, settings.dtype)
    family = _family(trainer, settings, len(seen))
    law = _kept(family, problem.number, lambda: required(trainer.declaration, problem, network, dtype))
    absent = tuple(one.absent for one in seen)
    return Evidence(law, torch.stack([one.gradient for one in seen]), absent, network, dtype)


def _problems(
    ranks: Processes, trainer: Trainer, settings: Settings, only: Sequence[str], network: nn.Module, dtype: torch.dtype
) -> list[Problem]:
    """The same problems on every rank, as rank 0 draws them."""
    divisions = _divisions(ranks.size, trainer)
    numbered = list(enumerate((name, layout) for name, found in divisions.items() for layout in found))
    if only and not set(only) - set(divisions):  # else the others are judged on all
        numbered = [(j, one) for j, one in numbered if one[0] in only]

    numbers = [(1_009 * settings.seed + 31 * i + j, *one) for i in range(settings.max_examples) for j, one in numbered]

    def draw() -> list[Problem]:
        return [make_problem(trainer.declaration, name, layout, network, n, dtype) for n, name, layout in numbers]

    return ranks.agreed(lambda: _kept(_family(trainer, settings, ranks.size), tuple(only), draw))


def _divisions(size: int, trainer: Trainer) -> dict[str, list[Layout]]:
    declaration = trainer.declaration
    found = layouts(size, declaration.steps(size), declaration.shards == "equal")
    if no_advantages(trainer) is None:
        found["advantages"] = found["equal-shards"]
    return found


def _observe(
    ranks: Processes,
    trainer: Trainer,
    problem: Problem,
    network: nn.Module,
    names: dict[str, tuple[int, ...]],
    device: Device,
) -> tuple[list[_Seen], str]:
    place = torch.device(device, torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")
    model = copy.deepcopy(network).to(place)
    offered = {n: x.to(place) if isinstance(x, Tensor) else x for n, x in problem.offered.items()}
    shard = replace(problem, offered=offered).shard(ranks.rank)
    before = flat_parameters(model, names)

    def step() -> _Seen:
        returned = trainer.function(model, shard)
        gradient, absent = read_gradient(model, returned, names)
        changed = returned is None and not torch.equal(flat_parameters(model, names), before)
        return _Seen(gradient, absent, changed)

    seen, said = ranks.call(trainer.name, step)
    return ranks.gathered(seen), said
