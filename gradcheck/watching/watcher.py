r"""The watch of one run: the hook on the gradient, what is made of it, and what is written down."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from derivations.pieces import Piece
from gradcheck.console import prose
from gradcheck.errors import GradcheckError
from gradcheck.watching.averaged import Average
from gradcheck.watching.faults import Checked
from gradcheck.watching.given import Given, Problem, read_call
from gradcheck.watching.lines import Report, StepLine
from gradcheck.watching.moved import Moved
from gradcheck.watching.pending import Pending, goes_on, network_dtype, quiet, untraced
from gradcheck.watching.rewards import judge_rollout
from gradcheck.watching.saving import Kept, write_step
from gradcheck.watching.step import Context, Judgement, judge_call
from gradcheck.watching.text import failure_line, summary
from gradcheck.watching.trainer import Arrivals, Parameters, dropout_of

__all__ = ["Watch", "WatchError", "WatchWarning"]

_ONE_PART = frozenset({"policy-detached", "kl-without-gradient", "positive-branch-alone", "negative-branch-alone"})
"""Causes of a gradient that is a part of the required one: another backward pass may bring the rest."""
_EXPLAINED = 3
"""Wrong steps whose cause is looked for; after them, the first of these is repeated where the checks are the same."""


class WatchWarning(UserWarning):
    """A call that cannot be judged, or something that cannot be checked; training goes on."""


class WatchError(GradcheckError):
    """A wrong step, with ``strict=True``."""


class Watch:
    """The watch of one training run; made by :func:`gradcheck.watch`.

    Attributes:
        report: what was seen so far.
    """

    def __init__(
        self,
        context: Context,
        every: int,
        log: str | os.PathLike[str] | None,
        strict: bool,
        model: nn.Module | None,
        parameters: dict[str, Tensor],
        average: Average | None,
    ) -> None:
        self._context, self._every, self._strict = context, every, strict
        self._model, self._parameters, self._average = model, parameters, average
        self._rank = _rank()
        self._log = None if log is None else _of_rank(Path(log), self._rank)
        self._calls = 0
        self._said: set[str] = set()
        self._moved = Moved(parameters)
        self._waiting: dict[int, Pending] = {}
        self._parted: dict[int, Pending] = {}
        self._report = Report()
        self._explained: list[StepLine] = []
        self._kept: Kept | None = None
        self._first_wrong: Kept | None = None
        self._save_next: Path | None = None
        self._begun = False
        atexit.register(_at_exit, weakref.ref(self))

    def __call__(self, *unnamed: Any, **quantities: Any) -> None:
        r"""Look at one training step, before ``backward``.

        Args:
            quantities: what the loss is made of, by the notation table's names: ``v_theta`` (live, as the network
                put it out), latents of shape (B, \*latent), numbers per sample of shape (B,), numbers.  What follows
                from others may be left out: ``t_prev`` or ``dt``; ``noise``, read off ``x_prev``; ``v_old`` with
                ``mean_old``, or with ``on_policy=True``.  Besides, for more checks: ``timestep``, ``sigmas``,
                ``step_index``, ``reward`` and ``group``, ``v_cond``, ``v_uncond`` and ``guidance``, ``loss_scale``,
                ``on_policy``, ``step``.
        """
        number = self._calls
        self._calls += 1
        if "on_policy" in quantities:
            self._moved.called(quantities["on_policy"])
        if self._parted:
            with self._safely():
                self._close_parted()
        if number % self._every and self._save_next is None and not (self._average and self._average.waiting):
            return
        with self._safely():
            if unnamed:
                text = f"the call: got {len(unnamed)} without a name; wanted every quantity by its name, v_theta=…"
                self._say("unnamed", text)
                self._finish(StepLine(number, "unjudged", because=text, rank=self._rank))
                return
            untraced(_look)(self, number, quantities)

    # In a compiled step Dynamo's graph ends before the call: a hook on its tensors would else be a part of it.
    __call__._torchdynamo_disable = True  # type: ignore[attr-defined]

    @property
    def report(self) -> Report:
        with contextlib.suppress(WatchError):
            self._close_parted()
        self._close_dead()
        return self._report

    def advantages(self, advantage: Any, reward: Any, group: Any = None) -> None:
        """Look at the advantages of a whole rollout, where every member of each group is there.

        Args:
            advantage: (N,).
            reward: (N,), what they are made of.
            group: (N,), ids; one group by default.
        """
        with self._safely():
            self._moved.rollout()
            found = judge_rollout(advantage, reward, group, self._context.declared.conventions.adv_clip_max)
            if isinstance(found, str):
                self._say("advantages", found)
                return
            if found.unchecked:
                self._report.unchecked.setdefault("advantages", found.unchecked)
            checks = {"advantages": "fails"}
            for fault in found.faults:
                line = StepLine(self._calls, "wrong", (fault.name,), fault.sentence, checks=checks, rank=self._rank)
                self._finish(line)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a judged step's tensors, for ``gradcheck replay FOLDER``.

        That is the step judged last, or the first wrong one where its tensors are gone; else the next call is judged
        and written.
        """
        path = Path(folder)
        for kept in (self._kept, self._first_wrong):
            if kept is not None and not kept.changed():
                write_step(path, kept, self._context)
                return
        self._save_next = path

    @contextlib.contextmanager
    def _safely(self) -> Iterator[None]:
        """A fault of ours must not stop the training: it is told, once."""
        try:
            yield
        except WatchError:
            raise
        except Exception as error:
            self._say("internal", f"the watch failed, and training goes on: {type(error).__name__}: {error}")

    # ------------------------------------------------------------------------------------------- one call

    def _look(self, number: int, quantities: dict[str, Any]) -> None:
        if torch._C._current_graph_task_id() != -1:
            return  # a checkpointed forward that runs again inside backward
        if self._average is not None and self._average.waiting:
            self._old_model_moved(number)
        if number % self._every and self._save_next is None:
            return
        self._kept = None
        self._close_dead()
        step = quantities.pop("step", number)
        given, problems = read_call(self._context.output_name, quantities)
        problems = problems or self._context.also(given)  # what is missing may follow from what is wrong
        output = None if given is None else given.output
        if output is not None and not output.requires_grad:
            because = "it was computed under torch.no_grad" if not torch.is_grad_enabled() else "it was detached"
            problems.append(
                (self._context.output_name, f"a tensor without a graph: {because}", "the network's output, live")
            )
        elif output is not None and not torch.is_grad_enabled():
            self._say("no-grad", "called under torch.no_grad: call it in the training step, where the loss is computed")
        if output is not None and any(p.output() is output for p in self._waiting.values()):
            self._say("twice", f"called twice with the same {self._context.output_name}; the second call is ignored")
            return
        if given is None or output is None or problems:
            self._refuse(step, problems, output)
            return
        self._pend(step, number, given, output)

    def _refuse(self, step: int, problems: list[Problem], output: Tensor | None) -> None:
        text = "; ".join(f"{name}: got {got}; wanted {wanted}" for name, got, wanted in problems)
        dead = next((p for p in problems if "without a graph" in p[1]), None)
        self._say(", ".join(sorted({name for name, *_ in problems})), text)
        if dead is not None and self._model is not None and any(p.requires_grad for p in self._parameters.values()):
            sentence = (
                f"{dead[0]} has no graph: no gradient can reach the parameters (adapter off, no_grad, or detached)"
            )
            self._finish(StepLine(step, "wrong", ("no-graph",), sentence, rank=self._rank))
            return
        if output is not None and not bool(output.detach().isfinite().all()):
            rows = (~output.detach().isfinite()).flatten(1).any(1)
            sentence = f"{self._context.output_name} is not finite in {int(rows.sum())} of {len(rows)} samples; {text}"
            self._finish(StepLine(step, "wrong", ("not-finite",), sentence, rank=self._rank))
            return
        self._finish(StepLine(step, "unjudged", because=text, rank=self._rank))

    def _pend(self, step: int, number: int, given: Given, output: Tensor) -> None:
        given.moved, given.moved_ever = self._moved.since()
        if given.extra.get("on_policy") is True and given.moved is None:
            self._moved.rollout()
        given.extra.setdefault("on_policy", self._is_on_policy(number, given, output))
        pending = Pending(step, given, weakref.ref(output), Arrivals(given.live))
        pending.parameters = Parameters(self._parameters, self._model) if self._parameters else None
        given.output, given.live = output.detach(), dict.fromkeys(given.live, output.detach())
        pending.network_dtype = network_dtype(output)
        if self._average is not None:
            pending.checks.append(self._average.aliased(output, given.latents.get(self._old_name)))
            self._average.remember()
        key = id(pending)
        self._waiting[key] = pending
        pending.hook = output.register_hook(self._hook(key))

    @property
    def _old_name(self) -> str:
        return self._context.output_name.replace("theta", "old")

    def _is_on_policy(self, number: int, given: Given, output: Tensor) -> bool | None:
        """What was declared; else while the old model is the live one; else the first call of a run, where a network's
        output follows its own rollout."""
        if self._context.on_policy is not None:
            return self._context.on_policy
        if self._average is not None and not self._average.apart() and self._old_name in given.latents:
            return True
        first = number == 0 and self._context.declared.on_policy_first and not output.is_leaf
        return True if first and self._old_name in given.latents else None

    def _hook(self, key: int) -> Callable[[Tensor], None]:
        owner = weakref.ref(self)

        def arrived(gradient: Tensor) -> None:
            watch = owner()
            if watch is not None:
                watch._arrived(key, gradient)

        return arrived

    def _arrived(self, key: int, gradient: Tensor) -> None:
        """The gradient is there, inside backward."""
        pending = self._waiting.pop(key, None)
        if pending is None:
            return
        start = time.perf_counter()
        with self._safely():
            pending.hook.remove()
            changed = pending.given.changed_in_place()
            if changed:
                self._say("in-place", f"{', '.join(changed)} was changed in place between the call and backward")
                line = StepLine(pending.step, "unjudged", because=f"{', '.join(changed)} was changed in place")
                pending.judgement = Judgement(line, None)
            else:
                self._judge(pending, gradient)
            pending.seconds = time.perf_counter() - start
            pending.goes_on = goes_on(pending.output())
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._end(pending))

    def _judge(self, pending: Pending, gradient: Tensor) -> None:
        with quiet(gradient):
            pending.judgement = judge_call(
                self._context,
                pending.step,
                pending.given,
                gradient,
                pending.network_dtype,
                lambda: dropout_of(self._model),
                explain=len(self._explained) < _EXPLAINED,
            )
            pending.length = float(gradient.detach().to(torch.float32).norm())
        self._kept = Kept.of(pending.given, gradient)
        if pending.judgement.seen is None:
            self._say("unjudged", pending.judgement.line.because)
        # autograd may write into the gradient's own memory afterwards
        pending.part = gradient.detach().clone() if self._may_be_a_part(pending.judgement.line) else None

    def _may_be_a_part(self, line: StepLine) -> bool:
        """Whether the loss's terms may run backward one after the other, and this was one of them."""
        if line.causes == ("no-gradient",):  # that of a reference term where the model is still the reference
            return Piece.REFERENCE in self._context.declared.derivation.pieces
        return not _ONE_PART.isdisjoint(line.causes)

    def _end(self, pending: Pending) -> None:
        """Backward is over: what it left in the parameters and in the other inputs."""
        start = time.perf_counter()
        with self._safely():
            with torch.no_grad():
                checks = list(pending.checks)
                guidance = pending.given.extra.get("guidance")
                w = None if guidance is None else float(guidance)
                checks += pending.arrivals.checked(pending.length > 0, w, max(pending.length, 1e-300))
                if pending.parameters is not None:
                    checks.append(
                        pending.parameters.checked()
                        if pending.goes_on
                        else Checked("parameters", unchecked="this backward pass stops at the network's output")
                    )
            assert pending.judgement is not None
            line = pending.judgement.with_checks(checks, self._rank, pending.seconds + time.perf_counter() - start)
            output = pending.output()
            if pending.part is not None and pending.goes_on and output is not None:
                pending.line, self._parted[id(pending)] = line, pending
                pending.hook = output.register_hook(lambda gradient: self._arrived_apart(pending, gradient))
                return
            pending.arrivals.close()
            self._conclude(line, pending)
            if output is not None and pending.parameters is not None and line.verdict == "conforms":
                # a KL term's own pass brings next to nothing where the model is still the reference
                step, unseen = pending.step, pending.length * (line.resolution or 0.0)
                pending.hook = output.register_hook(lambda gradient: self._arrived_again(step, gradient, unseen))

    def _arrived_apart(self, pending: Pending, gradient: Tensor) -> None:
        """Another part of the gradient, in a backward pass of its own: the sum of both is judged."""
        if id(pending) not in self._parted or not goes_on(pending.output()):
            return
        start = time.perf_counter()
        with self._safely():
            del self._parted[id(pending)]
            pending.hook.remove()
            zeroed = pending.parameters is not None and pending.parameters.empty  # the first part is gone
            if zeroed or pending.given.changed_in_place():
                torch.autograd.Variable._execution_engine.queue_callback(lambda: self._close(pending))
                return
            assert pending.part is not None
            before = pending.length
            self._judge(pending, pending.part + gradient.detach())
            pending.length = before + float(gradient.detach().to(torch.float32).norm())  # as arrivals are counted
            assert pending.judgement is not None
            told = pending.judgement.line
            both = "; ".join(x for x in (told.because, "two backward passes were added up") if x)
            pending.judgement.line = replace(told, because=both)
            pending.seconds += time.perf_counter() - start
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._end(pending))

    def _close_parted(self) -> None:
        """No other part of the gradient has come: what was seen of it is all."""
        while self._parted:
            _, pending = self._parted.popitem()
            pending.hook.remove()
            self._close(pending)

    def _close(self, pending: Pending) -> None:
        assert pending.line is not None
        pending.arrivals.close()
        self._conclude(pending.line, pending)

    def _arrived_again(self, step: int, gradient: Tensor, unseen: float) -> None:
        """A second gradient came to an output that was judged: one of a length that would have been seen?"""
        with self._safely():
            if float(gradient.detach().to(torch.float32).norm()) <= unseen:
                return
            parameters = Parameters(self._parameters, self._model)
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._end_again(step, parameters))

    def _end_again(self, step: int, parameters: Parameters) -> None:
        for fault in parameters.again().faults:
            checks = {"parameters": "fails"}
            self._finish(StepLine(step, "wrong", (fault.name,), fault.sentence, checks=checks, rank=self._rank))

    def _conclude(self, line: StepLine, pending: Pending) -> None:
        assert pending.judgement is not None
        for name, why in pending.judgement.unchecked.items():
            self._report.unchecked.setdefault(name, why)
        if line.verdict == "wrong":
            repeated = next((x for x in self._explained if set(x.checks.items()) == set(line.checks.items())), None)
            if len(self._explained) < _EXPLAINED:
                self._explained.append(line)
            elif repeated is not None and line.causes == ("gradient",):
                line = pending.judgement.as_before(line, repeated)
            if self._first_wrong is None and self._kept is not None:
                self._first_wrong = self._kept.copy()
        if self._save_next is not None and self._kept is not None:
            folder, self._save_next = self._save_next, None
            write_step(folder, self._kept, self._context)
        self._finish(line)

    # --------------------------------------------------------------------------------------- writing down

    def _finish(self, line: StepLine) -> None:
        first = line.verdict == "wrong" and self._report.first_wrong is None
        self._report.add(line)
        if self._log is not None:
            try:
                with self._log.open("a" if self._begun else "w", encoding="utf-8") as file:
                    file.write(line.to_json() + "\n")
                self._begun = True
            except OSError as error:
                self._say("log", f"{self._log} cannot be written: {error.strerror}")
        if first:
            print(prose(failure_line(line)), file=sys.stderr, flush=True)
        if line.verdict == "wrong" and self._strict:
            raise WatchError(failure_line(line))

    def _old_model_moved(self, number: int) -> None:
        assert self._average is not None
        with torch.no_grad():
            found = self._average.moved()
        if found is None:
            if not self._average.followed:
                self._report.unchecked["old-model"] = "the old model has not moved since it was first looked at"
            return
        self._average.followed = True
        self._report.unchecked.pop("old-model", None)
        if found.faults:
            fault = found.faults[0]
            line = StepLine(
                number, "wrong", (fault.name,), fault.sentence, checks={"old-model": "fails"}, rank=self._rank
            )
            self._finish(line)

    def _close_dead(self) -> None:
        """Calls whose output is gone without a gradient."""
        for key, pending in list(self._waiting.items()):
            if pending.output() is None:
                del self._waiting[key]
                text = (
                    f"no gradient reached the {self._context.output_name} of step {pending.step}: backward did not "
                    "run, ran before the call, or the loss is made of another tensor"
                )
                self._say("never", text)
                with contextlib.suppress(WatchError):
                    self._finish(StepLine(pending.step, "unjudged", because=text, rank=self._rank))

    def _say(self, kind: str, text: str) -> None:
        """One warning of each kind; never an exception, also where warnings are errors."""
        if kind in self._said:
            return
        self._said.add(kind)
        try:
            warnings.warn(f"[gradcheck] watch: {text}", WatchWarning, stacklevel=_outside())
        except WatchWarning as warning:
            print(warning, file=sys.stderr, flush=True)


def _look(watch: Watch, number: int, quantities: dict[str, Any]) -> None:
    watch._look(number, quantities)


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    value = os.environ.get("RANK", "0")
    return int(value) if value.isdigit() else 0


def _of_rank(path: Path, rank: int) -> Path:
    return path if rank == 0 else path.with_suffix(f".rank{rank}{path.suffix}")


def _outside() -> int:
    """How far up the first frame outside this package is, and outside what Dynamo and contextlib wrap around it."""
    frame, level = sys._getframe(1), 1
    inside = ("gradcheck.watching", "torch._dynamo", "contextlib")
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(inside):
        frame, level = frame.f_back, level + 1
    return level


def _at_exit(watch: weakref.ref[Watch]) -> None:
    found = watch()
    if found is not None and found.report.lines and not found.report.told:
        print(summary(found.report), file=sys.stderr)
