"""The parts that check: what holds on the CPU must hold on the device, and what is refused there must be refused."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.devices import DTYPES
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import gradient_of
from gradcheck.rounding.streaming import compare_gradient
from gradcheck.vectors.checking import check
from gradcheck.vectors.export import export
from gradcheck.verifying import networks
from gradcheck.verifying.verification import check_random

from .. import alarms
from .rows import Row, Share

EXAMPLES = 15
"""Random problems of each loss in each precision; hypothesis shrinks the first that fails."""

SPECS = tuple(
    Spec(batch, latent, seed, policy=policy, time=time)
    for seed, (batch, latent, policy, time) in enumerate(
        [
            (5, (2, 3, 4), "off", "middle"),
            (1, (1,), "start", "middle"),
            (7, (16,), "off", "mixed"),
            (3, (65,), "start", "mixed"),
        ]
    )
)


def _piece(what: str, work: Callable[[], Row]) -> Row:
    """The row of a piece of work; one that raises is off, and says why."""
    try:
        return work()
    except Exception as error:  # a part goes on: what else there is to see on a machine lent for minutes counts
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Row(what, 1, 1, told=[f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"])


def _all(share: Share, pieces: Any, work: Callable[[Any], Row], what: Callable[[Any], str]) -> Iterator[Row]:
    start = time.monotonic()
    for piece in share.of(pieces):
        if time.monotonic() - start > share.seconds:
            return
        yield _piece(what(piece), lambda piece=piece: work(piece))  # type: ignore[misc]


# --------------------------------------------------------------------------------------- losses and equivalents


def laws(share: Share) -> Iterator[Row]:
    """Property-based: autograd of each loss is the derived gradient, and that of its equivalent squared error."""

    def work(piece: tuple[str, Entry]) -> Row:
        dtype, entry = piece
        found = check_random(entry, dtype, share.device, EXAMPLES, 0)
        told = [] if found.failure is None else [f"{entry.label}: {found.failure[1]} on {found.failure[0]}"]
        return Row(dtype, found.examples, len(told), found.ratio, told)

    yield from _all(share, itertools.product(DTYPES, CATALOGUE), work, lambda piece: piece[0])


def same(share: Share) -> Iterator[Row]:
    """A problem holds the same numbers on both devices, bit for bit."""

    def work(entry: Entry) -> Row:
        row = Row("problems", 0)
        for dtype, spec in itertools.product(DTYPES.values(), SPECS):
            here, there = (build(entry.derivation, spec, dtype, device) for device in ("cpu", share.device))
            row.checks += 1
            for name in here.names:
                a, b = getattr(here, name), getattr(there, name)
                if isinstance(a, Tensor) and not (b.device.type == share.device and _bits(a).equal(_bits(b.cpu()))):
                    row.off += 1
                    row.told.append(f"{entry.label}, {dtype}: {name} on {b.device} differs")
        return row

    yield from _all(share, CATALOGUE, work, lambda _: "problems")


def _bits(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)


def real_networks(share: Share) -> Iterator[Row]:
    """At the LoRA weights of SD3 and Flux: the loss and its equivalent agree, and twice the loss is refused."""
    missing = networks.available()
    if missing is not None:
        if share.index == 0:
            yield Row(f"not run: {missing}", 0)
        return

    def work(piece: tuple[Entry, str, torch.dtype]) -> Row:
        entry, network, dtype = piece
        right = networks.compare_network(entry, network, 0, dtype, share.device)
        double = replace(entry, by_hand=lambda case, **own: 2 * entry.by_hand(case, **own))
        wrong = networks.compare_network(double, network, 0, dtype, share.device)
        told = [] if right.holds else [f"{entry.label}: {right}"]
        told += [f"{entry.label}: twice the loss passes"] if wrong.holds else []
        return Row(name(piece), 2, len(told), right.ratio, told)

    def name(piece: tuple[Entry, str, torch.dtype]) -> str:
        return f"{piece[1]}, {str(piece[2]).removeprefix('torch.')}"

    pieces = itertools.product(CATALOGUE, networks.NETWORKS, (torch.float64, torch.float32))
    yield from _all(share, pieces, work, name)


# ------------------------------------------------------------------------------------------------- the oracle


_WRONG, _RIGHT = "wrong code refused, with its cause", "right code conforms, every obligation"


def oracle(share: Share) -> Iterator[Row]:
    """Every wrong implementation of the tests is refused, and every right one conforms, judged on the device."""
    from tests.oracle.table import CORRECT, MUTANTS

    def settings(examples: int) -> Settings:
        return Settings(device=share.device, max_examples=examples)

    def wrong(one: Any) -> Row:
        (result,) = judge(Subject(one.function, one.name, one.conventions), settings(10), (one.obligation,)).results
        caught = result.status == "failed"
        named = result.diagnosis is not None and result.diagnosis.name == one.cause
        told = [] if caught and named else [f"{one.name}: {'unnamed' if caught else 'passes'}"]
        return Row(_WRONG, 1, len(told), 0.0, told)

    def right(one: Any) -> Row:
        found = judge(Subject(one.function, one.name, one.conventions), settings(4))
        told = [f"{one.name}: {r.id}: {r.outcome.detail}" for r in found.results if not r.good]
        worst = max((r.outcome.ratio for r in found.results if r.status == "passed"), default=0.0)
        return Row(_RIGHT, 1, bool(told), worst, told)

    def work(one: Any) -> Row:
        return wrong(one) if hasattr(one, "cause") else right(one)

    def what(one: Any) -> str:
        return _WRONG if hasattr(one, "cause") else _RIGHT

    warnings.simplefilter("ignore")
    yield from _all(share, [*MUTANTS, *CORRECT], work, what)


def parts(share: Share) -> Iterator[Row]:
    """Reverse steps, advantages and reward maps that compute on the device and give back what lies there."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    from parts import mutants, steps, test_advantage  # type: ignore[import-not-found]

    def there(function: Callable[..., Any]) -> Callable[..., Any]:
        def moved(*given: Any, **named: Any) -> Any:
            move = [x.to(share.device) if isinstance(x, Tensor) else x for x in given]
            more = {k: x.to(share.device) if isinstance(x, Tensor) else x for k, x in named.items()}
            return function(*move, **more)

        return moved

    def draw(v: Tensor, generator: Any) -> Tensor:
        return torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device)

    right: list[tuple[str, Callable[..., Any], dict[str, Any]]] = [
        ("sde_step", steps.make_step(draw=draw), {}),
        ("sde_step", steps.make_step(draw=draw, sigma=steps.constant_sigma), {"sde": "dance"}),
        ("sde_step", steps.make_step(draw=draw, reduce="sum"), {"log_prob_reduction": "sum"}),
        *(("advantage", f, declared) for f, declared in test_advantage.RIGHT_ADVANTAGES.values()),
    ]
    # what changes its input in place changes a copy here
    wrong = [m for m in mutants.MUTANTS if m.part in ("advantage", "reward_map") and "in-place" not in str(m)]

    def work(piece: Any) -> Row:
        if isinstance(piece, tuple):
            part, function, declared = piece
            found = mutants.JUDGES[part](there(function), **declared)
            told = [f"{part}: {r.id}: {r.outcome.detail}" for r in found.results if not r.good]
            return Row("right parts conform", 1, bool(told), 0.0, told)
        found = mutants.JUDGES[piece.part](there(piece.function), **piece.declared)
        named = {r.id: r.diagnosis.name for r in found.results if not r.good and r.diagnosis is not None}
        seen = all(named.get(obligation) == cause for obligation, cause in piece.causes.items())
        told = [] if seen else [f"{piece}: {named}"]
        return Row("wrong parts refused, with their cause", 1, len(told), 0.0, told)

    warnings.simplefilter("ignore")
    yield from _all(share, [*right, *wrong], work, lambda _: "parts")


def vectors(share: Share) -> Iterator[Row]:
    """The golden vectors, answered on the device by the losses written by hand."""
    from tests.vectors.answering import answer

    def work(entry: Entry) -> Row:
        row = Row("sets of vectors answered", 0)
        with tempfile.TemporaryDirectory() as folder:
            made, answers = Path(folder) / "vectors", Path(folder) / "answers"
            export(made, entry.label)
            answer(made, answers, device=share.device)
            for one in check(made, answers):
                told = [] if one.holds else [f"{one.label}, {one.dtype}"]
                row.add(Row(row.what, 1, len(told), 0.0, told))
        return row

    yield from _all(share, CATALOGUE, work, lambda _: "sets of vectors answered")


# -------------------------------------------------------------------------------------------------- the trainer


def watch(share: Share) -> Iterator[Row]:
    """The example trainers on the device: right ones are watched without an alarm, wrong ones are named."""
    if networks.available() is not None:
        if share.index == 0:
            yield Row(f"not run: {networks.available()}", 0)
        return
    from accelerate.state import AcceleratorState

    from examples.trainers.forward import ForwardTrainer
    from examples.trainers.policy import PolicyTrainer
    from gradcheck.watching.watcher import WatchError
    from tests.watching.trainer_bugs import BUGS, SMALL

    methods = ("flow_grpo", "grpo_guard", "awm", "diffusion_nft")
    precisions = (("no", "float32"), ("no", "bfloat16"), ("bf16", "float32"))
    clean = list(itertools.product(methods, ("sd3", "flux"), precisions))

    def right(piece: Any) -> Row:
        method, network, (mixed, dtype) = piece
        kind = PolicyTrainer if method in ("flow_grpo", "grpo_guard") else ForwardTrainer
        AcceleratorState._reset_state(True)  # it keeps the first trainer's precision for the whole process
        own = replace(SMALL, device=share.device, network=network, dtype=dtype, mixed_precision=mixed, updates=20)
        trainer = kind(own, method)
        trainer.train()
        report = trainer.watch.report
        steps = sum(report.verdicts.values())
        told = [] if report.holds and not report.verdicts["unjudged"] else [f"{piece}: {report}"]
        return Row("steps of right trainers", steps, len(told), 0.0, told)

    def wrong(name: str) -> Row:
        AcceleratorState._reset_state(True)
        trainer = BUGS[name].make(share.device)
        trainer.watch._strict = True
        with contextlib.suppress(WatchError):
            trainer.train()
        first = trainer.watch.report.first_wrong
        told = [] if first is not None and BUGS[name].cause in first.causes else [f"{name}: {first}"]
        return Row("wrong trainers named", 1, len(told), 0.0, told)

    def work(piece: Any) -> Row:
        return wrong(piece) if isinstance(piece, str) else right(piece)

    def what(piece: Any) -> str:
        return "wrong trainers named" if isinstance(piece, str) else "steps of right trainers"

    warnings.simplefilter("ignore")
    yield from _all(share, [*BUGS, *clean], work, what)


# ------------------------------------------------------------------------------------------------ false alarms


MODES = {"as torch comes": (False, False), "TF32": (True, False), "deterministic": (False, True), "both": (True, True)}
"""Name → TF32 in products, deterministic algorithms."""


@contextlib.contextmanager
def _settings(mode: str) -> Iterator[None]:
    tf32, deterministic = MODES[mode]
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.use_deterministic_algorithms(deterministic)
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(False)


def right_code(share: Share) -> Iterator[Row]:
    """Right gradients in many styles (`benchmarks.alarms`), each sample judged alone, under four settings."""
    start = time.monotonic()
    for number in itertools.count(share.index, share.count):
        for place, subject in enumerate(alarms.subjects(number, [*alarms.DTYPES, *alarms.OUTPUTS])):
            if time.monotonic() - start > share.seconds:
                return
            spec, styles = alarms.specs(number, place)
            mode = list(MODES)[(number + place) % len(MODES)]

            def work(subject: Any = subject, spec: Spec = spec, styles: int = styles, mode: str = mode) -> Row:
                own = alarms.fitting(spec, subject.conventions)
                with _settings(mode):
                    tally, told = alarms.batch(subject, own, styles, share.device)
                return Row(mode, tally.checks, tally.alarms, tally.worst, told)

            yield _piece(mode, work)


def compiled(share: Share) -> Iterator[Row]:
    """The losses written by hand under `torch.compile` with its default backend."""

    def work(piece: tuple[torch.dtype, Entry]) -> Row:
        dtype, entry = piece
        row = Row("losses compiled", 0)

        def loss(v: Tensor, case: Any) -> Tensor:
            value: Tensor = entry.loss(case.replace(**{case.output_name: v}))
            return value

        once = torch.compile(loss, dynamic=False)
        for seed in range(3):
            spec = replace(SPECS[0], seed=seed)
            case = build(entry.derivation, spec, dtype, share.device)
            v = case.output.detach().clone().requires_grad_()
            found = compare_gradient(entry.derivation, case, gradient_of(once(v, case), v))
            told = [] if found.holds else [f"{entry.label}, {dtype}: ratio {found.ratio:.3g}"]
            row.add(Row(row.what, 1, len(told), found.ratio, told))
        return row

    warnings.simplefilter("ignore")
    yield from _all(
        share, itertools.product((torch.float32, torch.bfloat16), CATALOGUE), work, lambda _: "losses compiled"
    )


def many_devices(share: Share) -> Iterator[Row]:
    """Trainers on two ranks with NCCL, where there are two devices."""
    count = torch.cuda.device_count() if share.device == "cuda" else 0
    if count < 2:
        yield Row(f"not run: NCCL needs two devices, there {'is one' if count == 1 else 'are none'}", 0)
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests/distributed"]
    done = subprocess.run(command, capture_output=True, text=True)
    yield Row("tests on two ranks", 1, bool(done.returncode), told=[done.stdout[-500:]] if done.returncode else [])
