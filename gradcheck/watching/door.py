"""``gradcheck.watch``: what a training run is watched for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from gradcheck.errors import InputError
from gradcheck.watching.averaged import Average, shared_names
from gradcheck.watching.declared import declare_watch
from gradcheck.watching.given import Problem, describe, grid_of
from gradcheck.watching.step import Context
from gradcheck.watching.trainer import named_parameters
from gradcheck.watching.watcher import Watch, WatchError, WatchWarning

__all__ = ["Watch", "WatchError", "WatchWarning", "watch"]


def watch(
    algorithm: str | None = None,
    *,
    loss: str | None = None,
    preset: str | None = None,
    every: int = 50,
    log: str | os.PathLike[str] | None = "gradcheck-watch.jsonl",
    strict: bool = False,
    model: nn.Module | None = None,
    parameters: Iterable[Any] | None = None,
    old_model: nn.Module | None = None,
    old_adapters: tuple[str, str] | None = None,
    ema_decay: float | None = None,
    sigmas: Tensor | None = None,
    accumulation: float | None = None,
    world_size: float | None = None,
    loss_scale: Any = None,
    on_policy: bool | None = None,
    **declared: Any,
) -> Watch:
    r"""Judge the training step that really runs, on its own tensors.

    Call the result once in each training step, before ``backward``, with what the loss is made of; see
    :meth:`Watch.__call__`.  It changes no number of the training, and raises nothing into it unless ``strict``.

    Args:
        algorithm: a name of the catalogue; may be left out with ``preset`` or ``loss``.
        loss: the loss in one line instead, to be minimised (docs/derive.md).
        preset: what a public implementation declares (docs/oracle.md).
        every: calls from one judged step to the next one; the first call is judged.
        log: the file of JSON lines, one a judged step; other ranks than 0 have ``.rank1`` … in its name; ``None`` for
            none.
        strict: raise :class:`WatchError` at a wrong step.
        model: the trained network: its parameters that require grad must get a gradient; dropout is seen.
        parameters: what must train, if it is not that: tensors, or ``optimizer.param_groups``.
        old_model: the behaviour model, if it is an average of the live one; needs ``model``.
        old_adapters: the names (live, old) of two adapters of one model, in its place.
        ema_decay: d of old ← d·old + (1 − d)·live.
        sigmas: the scheduler's grid of times.
        accumulation: micro-batches that one update averages: the loss is divided by it.
        world_size: processes that DDP or FSDP average over, later, at the parameters.
        loss_scale: what multiplies the loss before backward: a number, or a ``GradScaler``.
        on_policy: whether v_old is the trained model itself at every step, so that the importance ratio is 1.  By
            default the first call of a run is taken to be so, where the method is on-policy and a network made v_theta;
            say it per call where you know it: ``watch(…, on_policy=inner_epoch == 0)``.
        declared: conventions of the loss and numbers that it holds, as :func:`gradcheck.conforms` takes them.

    Raises:
        InputError: something is not what it must be; every mistake is listed.
    """
    declaration = declare_watch(algorithm, loss, preset, declared)
    problems: list[Problem] = []
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        problems.append(("every", repr(every), "a number of calls, 1 or more"))
    for name, value in (("accumulation", accumulation), ("world_size", world_size), ("loss_scale", loss_scale)):
        if isinstance(value, (bool, str)) or (isinstance(value, (int, float)) and not value > 0):
            problems.append((name, repr(value), "a positive number"))
    if ema_decay is not None and not 0 <= ema_decay <= 1:
        problems.append(("ema_decay", repr(ema_decay), "a number from 0 to 1"))
    grid = None if sigmas is None else grid_of(sigmas)
    if sigmas is not None and grid is None:
        problems.append(("sigmas", describe(sigmas), "the scheduler's grid of times, from 1 down to 0, at least two"))
    modules: dict[str, Any] = {"model": model, "old_model": old_model}
    problems += [
        (name, f"a {type(x).__name__}", "a torch module")
        for name, x in modules.items()
        if x is not None and not isinstance(x, nn.Module)
    ]
    try:
        trained = named_parameters(model, parameters) if not problems else {}
    except TypeError as error:
        problems.append(("parameters", str(error), "tensors, pairs (name, tensor), or an optimiser's groups"))
        trained = {}
    if problems:
        raise InputError(*problems)
    average = None
    if old_model is not None or old_adapters is not None:
        source = old_model if old_model is not None else model
        every_name = dict(model.named_parameters()) if model is not None else trained
        live = {name: p for name, p in every_name.items() if name in trained} or every_name
        pairs = []
        if source is not None:  # what must train may be of another adapter, by mistake: that is told at the first step
            of_old = list(source.named_parameters())
            pairs = shared_names(live, of_old, old_adapters) or shared_names(every_name, of_old, old_adapters)
        if not pairs:
            raise InputError(
                ("old_model", "a model that shares no parameter's name with model=", "a copy of the trained model")
            )
        average = Average(pairs, ema_decay)
    constants = {"accumulation": accumulation, "world_size": world_size, "loss_scale": loss_scale}
    context = Context(declaration, {k: x for k, x in constants.items() if x is not None}, grid, on_policy)
    return Watch(context, every, log, strict, model, trained, average)
