"""The watch among what trainers use: checkpointing, GradScaler, autocast, torch.compile, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradcheck
from tests.watching.steps import DECLARED, GRID, PolicyStep

ROOT = Path(__file__).parents[2]


class Net(nn.Module):
    """A network on the latents of a :class:`PolicyStep`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(240, 16), nn.Linear(16, 240)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.second(torch.tanh(self.first(x.flatten(1)))).reshape(x.shape)


def run(
    velocity: Callable[[Net, Tensor], Tensor],
    backward: Callable[[Tensor], None] = lambda loss: loss.backward(),
    **options: Any,
) -> gradcheck.Watch:
    torch.manual_seed(0)
    model = Net()
    watch = gradcheck.watch("flow_grpo", every=1, model=model, sigmas=GRID, on_policy=False, **DECLARED, **options)
    for seed in range(2):
        step = PolicyStep(seed)
        step.call["v_theta"] = velocity(model, step.call["x_t"])
        watch(**step.call)
        backward(step.loss())
        model.zero_grad()
    assert watch.report.holds, watch.report
    return watch


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    """Also where the graph below the output is not the network's own."""

    def velocity(model: Net, x: Tensor) -> Tensor:
        v: Tensor = checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant)
        return v

    run(velocity)


def test_a_call_inside_a_checkpoint_is_made_once() -> None:
    """Its second run, inside backward, is none."""
    watch = gradcheck.watch("flow_grpo", every=1, **DECLARED)
    step = PolicyStep()

    def inner(v: Tensor) -> Tensor:
        watch(**{**step.call, "v_theta": v})
        return step.loss(v_theta=v)

    v = step.call["v_theta"]
    checkpoint(inner, v, use_reentrant=False).backward()
    assert [x.verdict for x in watch.report.lines] == ["conforms"]


def test_grad_scaler() -> None:
    """The scale multiplies the gradient, and is read from the scaler itself."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    watch = run(lambda model, x: model(x), lambda loss: scaler.scale(loss).backward(), loss_scale=scaler)
    assert {x.factor for x in watch.report.lines} == {"loss_scale"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """A network under autocast, whose output is in half precision; backward inside the region too."""

    def velocity(model: Net, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return model.second(torch.tanh(model.first(x.flatten(1)))).reshape(x.shape)

    def backward(loss: Tensor) -> None:
        with torch.autocast("cpu", dtype=dtype):
            (2.0**16 * loss).backward()

    watch = run(velocity, backward, loss_scale=2.0**16)
    assert max(watch.report.resolutions()) <= 0.01


def test_a_default_device_and_dtype_of_the_trainers_own() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("cpu"):
            run(lambda model, x: model(x))
    finally:
        torch.set_default_dtype(torch.float32)


def test_anomaly_mode() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is slow
        with torch.autograd.detect_anomaly():
            run(lambda model, x: model(x))


def test_accumulated_losses_and_one_backward() -> None:
    """Two calls wait for one backward pass."""
    watch = gradcheck.watch("flow_grpo", every=1, **DECLARED)
    steps = [PolicyStep(i) for i in range(2)]
    for step in steps:
        watch(**step.call)
    sum(step.loss() for step in steps).backward()  # type: ignore[union-attr]
    assert [x.verdict for x in watch.report.lines] == ["conforms"] * 2


def test_a_gradient_that_stops_at_the_output() -> None:
    """``torch.autograd.grad`` with respect to v_theta: its parameters are not judged, and not called unreached."""
    model = Net()
    watch = gradcheck.watch("flow_grpo", every=1, model=model, on_policy=False, **DECLARED)
    step = PolicyStep()
    step.call["v_theta"] = model(step.call["x_t"])
    watch(**step.call)
    torch.autograd.grad(step.loss(), step.call["v_theta"])
    assert watch.report.holds, watch.report
    assert "parameters" in watch.report.unchecked


@pytest.mark.filterwarnings("ignore")  # Dynamo's own
def test_compiled_networks_and_steps() -> None:
    """With the eager backend: Dynamo traces the step, and the watch stays outside of its graph."""
    torch._dynamo.reset()
    compiled: dict[int, Any] = {}

    def velocity(model: Net, x: Tensor) -> Tensor:
        v: Tensor = compiled.setdefault(id(model), torch.compile(model, backend="aot_eager"))(x)
        return v

    run(velocity)
    watch = gradcheck.watch("flow_grpo", every=1, on_policy=False, **DECLARED)
    step = PolicyStep()

    @torch.compile(backend="eager")
    def whole(v: Tensor) -> Tensor:
        v = v * 1.0
        watch(**{**step.call, "v_theta": v})
        return step.loss(v_theta=v)

    whole(step.call["v_theta"]).backward()
    assert [x.verdict for x in watch.report.lines] == ["conforms"]
    torch._dynamo.reset()


# On a busy machine gloo's threads can abort a process that ends while another still takes its leave; the verdicts are
# out by then, and what is tested is they.
_LEAVE = """
import os
import torch.distributed

torch.distributed.barrier()
os._exit(0)
"""

_RANKS = """
import sys
import torch
from examples.trainers.{file} import {kind}
from examples.trainers.tiny import Settings

trainer = {kind}(Settings(updates=2, prompts=2, group=3, timesteps=6, dtype="{dtype}"), "{method}")
trainer.train()
assert trainer.accelerator.num_processes == 2
assert trainer.watch.report.holds, trainer.watch.report
"""


@pytest.mark.parametrize(
    ("file", "kind", "method", "dtype"),
    [
        ("policy", "PolicyTrainer", "flow_grpo", "bfloat16"),
        ("forward", "ForwardTrainer", "diffusion_nft", "float32"),
    ],
)
def test_two_processes(file: str, kind: str, method: str, dtype: str, own_folder: Path) -> None:
    """DDP on gloo, by accelerate: each process judges its own steps, and writes its own log."""
    for library in ("diffusers", "peft", "accelerate"):
        pytest.importorskip(library)
    script = own_folder / "train.py"
    script.write_text(_RANKS.format(file=file, kind=kind, method=method, dtype=dtype) + _LEAVE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=own_folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    logs = [own_folder / name for name in ("gradcheck-watch.jsonl", "gradcheck-watch.rank1.jsonl")]
    lines = [[json.loads(row) for row in log.read_text().splitlines()] for log in logs]
    assert [len(x) for x in lines] == [4, 4]
    assert [x["rank"] for x in lines[1]] == [1] * 4
    assert {x["factor"] for rows in lines for x in rows} == {"1/accumulation"}
    assert lines[0][0]["ratio"] != lines[1][0]["ratio"], "each rank has samples of its own"


_SHARDED = """
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import gradcheck
from tests.watching.steps import DECLARED, GRID, PolicyStep
from tests.watching.test_frameworks import Net

dist.init_process_group("gloo")
torch.manual_seed(0)
model = Net()
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
options = {"model": model, "sigmas": GRID, "on_policy": False, "world_size": 2}
watch = gradcheck.watch("flow_grpo", every=1, **options, **DECLARED)
for i in range(2):
    step = PolicyStep(10 * dist.get_rank() + i)
    step.call["v_theta"] = model(step.call["x_t"])
    watch(**step.call)
    step.loss().backward()
assert watch.report.holds, watch.report
assert "FSDP" in watch.report.unchecked["parameters"]
"""


def test_sharded_parameters(own_folder: Path) -> None:
    """FSDP2 on gloo: the gradient is judged, and of the parameters it is said that they cannot be."""
    script = own_folder / "shard.py"
    script.write_text(_SHARDED + _LEAVE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=own_folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
