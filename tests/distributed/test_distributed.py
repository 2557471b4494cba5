"""Trainers on real processes: right ones conform, and each mistake is refused under its own name."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import nn

from derivations.pieces import Piece
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.distributed import Shard, VelocityMLP, conforms, judge, launch
from gradcheck.distributed.declaration import Declaration
from gradcheck.distributed.hypotheses import hypotheses, predicted
from gradcheck.distributed.problems import Layout, layouts, make_problem
from gradcheck.distributed.required import required, weights
from gradcheck.distributed.rounding import Imitated, network_rounding
from gradcheck.distributed.verdicts import IDS
from gradcheck.doors.cli import main
from gradcheck.errors import GradcheckError, InputError
from gradcheck.oracle.subject import Settings
from gradcheck.reports.json_report import schema
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from tests.conftest import CUDA
from tests.distributed import trainers
from tests.distributed.trainers import MISTAKES, losses, share

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GUIDE = (ROOT / "docs" / "distributed.md").read_text()
ONE = Settings(max_examples=1)
RIGHT = {name for name in vars(trainers) if name.startswith("right_")}


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes import ``tests`` from here."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def causes(target: dict[str, Any]) -> set[str]:
    return {o["diagnosis"]["name"] for o in target["obligations"] if o["diagnosis"]}


def failed(target: dict[str, Any]) -> set[str]:
    return {o["id"] for o in target["obligations"] if o["status"] == "failed"}


# ------------------------------------------------------------------------------------------- many processes


def test_two_ranks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every trainer, and the guide's as it stands and with the mistake that it tells of."""
    example = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[0]
    right = "(losses.sum() * shard.world_size / shard.global_size).backward()"
    wrong = re.search(r"Write `(.*?)` there", GUIDE)
    assert wrong
    assert right in example
    guide, mistaken, report = (tmp_path / name for name in ("judge_trainer.py", "mistaken.py", "report.json"))
    guide.write_text(example)
    mistaken.write_text(example.replace(right, wrong.group(1)).replace("def step(", "def mistaken("))
    files = [str(HERE / "trainers.py"), str(guide), str(mistaken)]
    assert launch(*files, ranks=2, options=("--max-examples=1", f"--json={report}")) == 1
    answer = capfd.readouterr().out

    data = json.loads(report.read_text())
    jsonschema.validate(data, schema())
    targets = {t["target"]: t for t in data["targets"]}
    assert {name for name, t in targets.items() if t["holds"]} == RIGHT | {"step"}
    for name in (*RIGHT, "step"):
        assert all(float(o["ratio"]) < 1 for o in targets[name]["obligations"]), name
    assert {name: causes(t) for name, t in targets.items() if not t["holds"]} == {
        "mistaken": {"micro-batch-means"},
        **{name: {cause} for name, cause in MISTAKES.items()},
    }
    # no obligation fails for another one's mistake
    assert failed(targets["mean_of_unequal_shards"]) == {"unequal-shards", "unequal-micro-batches"}
    assert failed(targets["advantages_per_rank"]) == {"advantages"}
    assert failed(targets["steps_the_optimiser"]) == {"parameters-untouched"}
    disagree = {name for name, t in targets.items() if "ranks-agree" in failed(t)}
    assert disagree == {
        "no_sync_left_on",
        "no_sync_on_the_last",
        "ddp_gone_before_backward",
        "one_rank_keeps_its_own",
        "reduced_to_rank_0",
        "some_parameters_reduced",
    }
    skipped = next(o for o in targets["step"]["obligations"] if o["id"] == "advantages")
    assert skipped["status"] == "skipped"

    quoted = re.search(r"```text\n(\[gradcheck\] step: unequal-micro.*?)```", GUIDE, re.DOTALL)
    assert quoted
    told = answer.partition("mistaken  (")[2]
    for line in quoted.group(1).splitlines()[1:]:
        assert line.strip() == "…" or line in told, f"{line}\n\nis not in\n\n{told}"


def test_three_ranks_and_steps_that_cannot_be_judged(capfd: pytest.CaptureFixture[str]) -> None:
    """Float32, a rank that differs from two others, failures that leave nobody waiting, and at last one that does."""
    names = (
        "right_by_hand",
        "right_gathered_gradients",
        "right_advantages",
        "one_rank_keeps_its_own",
        "reduced_to_rank_0",
        "advantages_per_rank",
    )
    broken = ("every_rank_raises", "one_rank_raises", "wrong_return", "wrong_shape", "wrong_network", "mixing_network")
    last = "rank_0_raises_before_the_reduction"
    files = [f"{HERE}/trainers.py::{name}" for name in names]
    files += [f"{HERE}/failing.py::{name}" for name in (*broken, last)]
    assert launch(*files, ranks=3, options=("--max-examples=1", "--dtype=float32")) == 2
    answer, told = capfd.readouterr()
    verdicts = dict(re.findall(r"^(\w+) (conforms|does not conform)", answer, re.MULTILINE))
    assert [verdicts[name] for name in names] == 3 * ["conforms"] + 3 * ["does not conform"]
    named = dict.fromkeys(re.findall(r"consistent with ([\w-]+)", answer))
    assert list(named) == ["rank-not-synchronised", "reduced-to-one-rank", "advantages-per-rank"]
    assert "rank 2 differs from all others, which agree" in " ".join(answer.split())
    for line in (
        "every_rank_raises could not be judged: every rank raised AttributeError: [gradcheck] v_theta is the network's",
        "one_rank_raises could not be judged: rank 1 raised ValueError: no reward model here (failing.py:",
        "wrong_return could not be judged: every rank gave up: the step returned a float; wanted None",
        "wrong_shape could not be judged: every rank gave up: the gradient of layers.0.weight has shape (240,)",
        "wrong_network could not be judged: [gradcheck] network: got one whose forward(x_t, t) raises RuntimeError",
        "mixing_network could not be judged: [gradcheck] network: got one that mixes samples",
        f"{last} could not be judged: rank 0 raised RuntimeError: out of patience (failing.py:",
    ):
        assert told.count(line) == 1, line
    assert len(re.findall(r"; rank [12] is at trainers\.py:\d+, in all_reduce", told)) == 2
    assert "Traceback" not in told


def test_a_rank_that_waits_for_another_does_not_hang(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(f"{HERE}/failing.py::skips_the_reduction", ranks=2, options=("--timeout=4", "--max-examples=1")) == 2
    told = capfd.readouterr().err
    account = r"took longer than 4 s: rank 0 is at trainers\.py:\d+, in all_reduce; rank 1 has returned\n"
    assert len(re.findall(account, told)) == 1, told
    assert "Traceback" not in told


@pytest.mark.parametrize("device", [CUDA])
def test_on_gpus(device: str, tmp_path: Path) -> None:
    ranks, report = min(torch.cuda.device_count(), 2), tmp_path / "report.json"
    files = [f"{HERE}/trainers.py::{name}" for name in ("right_by_hand", "right_ddp", "accumulation_not_averaged")]
    assert launch(*files, ranks=ranks, options=(f"--device={device}", "--max-examples=1", f"--json={report}")) == 1
    targets = {t["target"]: t for t in json.loads(report.read_text())["targets"]}
    assert [t["holds"] for t in targets.values()] == [True, True, False]


# --------------------------------------------------------------------------------------------- one process


def step_of(entry: Entry) -> Callable[..., None]:
    name, options = entry.algorithm.name, dict(entry.derivation.variant.options)

    @conforms(name, micro_batches=2, latent=(2, 3), **options)
    def step(model: nn.Module, shard: Shard) -> None:
        for micro in shard.micro_batches():
            (entry.loss(micro.case(model(micro.x_t, micro.t))).sum() / shard.global_size).backward()

    return step


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
def test_every_loss_has_problems_at_the_parameters(entry: Entry) -> None:
    """The losses by hand conform: in one process the law is that of the whole project."""
    result = judge(step_of(entry), ONE)
    assert result.holds, result
    seen = {r.id: r.outcome for r in result.results}
    assert seen["equal-shards"].ratio < 1
    assert seen["ranks-agree"].status == "skipped"


@pytest.mark.parametrize(("dtype", "factor"), [("float64", 1e-11), ("float32", 1e-3)])
def test_the_bound_is_sharp(dtype: str, factor: float) -> None:
    """A gradient wrong in the 11th digit is refused; in float32 in the 3rd."""

    @conforms("awm")
    def step(model: nn.Module, shard: Shard) -> None:
        case = shard.case(model(shard.x_t, shard.t))
        square = ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)
        ((1 + factor) * case.advantage * square).mean().backward()

    result = judge(step, Settings(max_examples=1, dtype=dtype))
    assert not result.holds
    assert {r.diagnosis.name for r in result.results if r.diagnosis} == {"constant-factor"}


class Lossy(VelocityMLP):
    """A network that rounds: it adds 0 as the difference of two large numbers, summed up in different orders."""

    size = 1e6

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x = self.size * x_t.flatten(1)
        total = x @ torch.ones(x.shape[1], 1, dtype=x.dtype)
        backwards = sum(reversed(x.unbind(1)))
        return super().forward(x_t, t) + (total[:, 0] - backwards).reshape(-1, 1, 1)


class LossyInFloat32(Lossy):
    size = 1e2


class SinglePrecision(VelocityMLP):
    """A network that normalises in float32 whatever its dtype, as many do."""

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        v = super().forward(x_t, t)
        return (v.float() / (1 + v.float().square().mean((1, 2), keepdim=True)).sqrt()).to(v.dtype)


class Attention(nn.Module):
    """A small transformer: softmax, layer normalisation, and operations that vmap cannot batch."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(4, 16), nn.Linear(16, 4)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(self.into(x_t) + torch.sin(10 * t).reshape(-1, 1, 1)))


def awm(network: Callable[[], nn.Module], factor: float = 1.0) -> Callable[..., None]:
    @conforms("awm", network=network)
    def step(model: nn.Module, shard: Shard) -> None:
        case = shard.case(model(shard.x_t, shard.t))
        (factor * case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)).mean().backward()

    return step


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("factor", "limit", "norm", "cause"),
    [
        (1.3, None, None, "constant-factor"),
        (1.0, 1e-3, None, "norm-clipped"),
        (1.0, None, 1e3, "gradient-normalised"),
        (-1.0, None, 1e3, None),
    ],
)
def test_what_scales_the_gradient_is_named_in_any_precision(
    dtype: str, factor: float, limit: float | None, norm: float | None, cause: str | None
) -> None:
    """Factors of several problems agree to their precision's rounding, not to float64's.  A clip only shortens, and
    turns no gradient round."""

    @conforms("awm")
    def step(model: nn.Module, shard: Shard) -> None:
        awm(VelocityMLP, factor)(model, shard)
        if limit:
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        if norm:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            length = nn.utils.get_total_norm(gradients)
            for gradient in gradients:
                gradient.mul_(norm / length)

    result = judge(step, Settings(max_examples=2, dtype=dtype))
    named = {r.diagnosis.name for r in result.results if r.diagnosis}
    assert named == {cause} if cause else not named & {"norm-clipped", "gradient-normalised"}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("network", "dtype"),
    [
        (Lossy, "float64"),
        (LossyInFloat32, "float32"),
        (SinglePrecision, "float64"),
        (Attention, "float64"),
        (Attention, "float32"),
    ],
)
def test_what_the_network_loses_is_no_alarm(network: type[nn.Module], dtype: str, seed: int) -> None:
    """Batches of other sizes round differently; here by far more than the loss does."""
    assert judge(awm(network), Settings(max_examples=1, seed=seed, dtype=dtype)).holds


@pytest.mark.parametrize(("network", "factor"), [(Lossy, 1e-7), (SinglePrecision, 1e-3), (Attention, 1e-11)])
def test_a_network_that_rounds_hides_nothing_larger(network: type[nn.Module], factor: float) -> None:
    assert not judge(awm(network, 1 + factor), ONE).holds


@pytest.mark.parametrize("entry", [e for e in CATALOGUE if Piece.RATIO in e.derivation.pieces], ids=lambda e: e.label)
def test_problems_keep_their_regimes_at_the_network(entry: Entry) -> None:
    """One sample is clipped, all others weigh, and the forward process's x_t is that of its x_0 and noise."""
    declaration = step_of(entry).gradcheck_trainer.declaration
    network = declaration.make_network().double()
    for seed in range(3):
        problem = make_problem(declaration, "equal-shards", Layout(((2, 2), (2, 2))), network, seed, torch.float64)
        law = required(declaration, problem, network, torch.float64)
        policy_alone = "kl_weight" not in entry.derivation.given
        still = [i for i, row in enumerate(law.contributions) if not bool(row.any())]
        assert still == [0] or not policy_alone
        if entry.derivation.process == "forward":
            offered = problem.offered
            t = offered["t"].reshape(-1, 1, 1)
            expected = (1 - t) * offered["x_0"] + t * offered["noise"]
            torch.testing.assert_close(offered["x_t"], expected, rtol=0, atol=1e-14)


def test_a_lost_micro_batch_of_one_process_is_named() -> None:
    result = judge(trainers.zero_grad_inside_the_loop, ONE)
    assert {r.diagnosis.name for r in result.results if r.diagnosis} == {"last-micro-batch-only"}


def weighed(weights: Callable[[int, list[int]], float]) -> Callable[..., Any]:
    """AWM whose micro-batches' sums are weighed by their size and that of all."""

    @conforms("awm", reduction="mean")
    def step(model: nn.Module, shard: Shard) -> None:
        micro_batches = list(shard.micro_batches())
        for micro in micro_batches:
            case = micro.case(model(micro.x_t, micro.t))
            losses = case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).mean(1)
            (losses.sum() * weights(len(micro), [len(m) for m in micro_batches])).backward()

    return step


@pytest.mark.parametrize(
    ("weights", "cause"),
    [
        (lambda own, every: own / sum(every), "outer-product"),
        (lambda own, every: 1 / (max(every) * len(every)), "largest-micro-batch"),
    ],
)
def test_a_weight_by_the_micro_batches_size_is_named(weights: Callable[[int, list[int]], float], cause: str) -> None:
    assert {r.diagnosis.name for r in judge(weighed(weights), ONE).results if r.diagnosis} == {cause}


def test_two_mistakes_are_named_together() -> None:
    @conforms("flow_grpo", clip_range=0.2, log_prob_reduction="mean")
    def step(model: nn.Module, shard: Shard) -> None:
        for micro in shard.micro_batches():
            model.zero_grad()
            (losses(model, micro).mean()).backward()

    causes = {r.diagnosis.cause for r in judge(step, ONE).results if r.diagnosis}
    assert len(causes) == 1
    (cause,) = causes
    assert "only the last micro-batch counts" in cause
    assert "each micro-batch's mean counts the same" in cause


def test_expected_failures() -> None:
    @conforms("flow_grpo", clip_range=0.2, log_prob_reduction="mean", expected_failures={"equal-shards": "known"})
    def step(model: nn.Module, shard: Shard) -> None:
        (losses(model, shard).sum() * share(shard)).backward()

    result = judge(step, ONE)
    assert {r.id for r in result.results if not r.good} == {"equal-shards"}
    assert next(r for r in result.results if r.id == "equal-shards").status == "unexpected-pass"


def test_a_slow_step_is_stopped() -> None:
    @conforms("awm")
    def step(model: nn.Module, shard: Shard) -> None:
        while True:
            pass

    with pytest.raises(GradcheckError, match=r"longer than the 0\.3 s"):
        judge(step, Settings(max_examples=1, timeout=0.3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA device")
def test_missing_gpus_are_told() -> None:
    result = judge(trainers.right_by_hand, Settings(device="all", max_examples=1))
    told = {r.outcome.detail for r in result.results if r.device == "cuda"}
    assert result.holds
    assert told == {"torch sees no CUDA device"}


def test_the_command_without_torchrun(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distributed", f"{HERE}/trainers.py::right_by_hand", "--max-examples", "1"]) == 0
    assert "right_by_hand conforms" in capsys.readouterr().out
    assert main(["distributed", f"{HERE}/trainers.py::zero_grad_inside_the_loop", "--max-examples", "1"]) == 1
    assert main(["distributed", f"{HERE}/trainers.py::losses"]) == 2
    assert "which has no decorated 'losses'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ the parts


def test_imitated_errors_are_those_of_each_operation() -> None:
    """Independent errors add up in square; what only moves numbers has none; sums err as if added up one by one."""
    x = torch.ones(4, 20_000, dtype=torch.float64)
    root = math.sqrt(2 * x[0].numel())  # of the number of squares: a root mean square is known to one part in this
    with Imitated(1e-6, 0) as errors:
        products = x[0] * x[1] * x[2] * x[3]
        in_place = x[0].clone().mul_(x[1]).mul_(x[2])
        moved = torch.cat([x[:2].T, x[2:].T.clone()], dim=1)
        sums = torch.stack([x[:, :6].sum() for _ in range(2_000)])
    assert not errors.lower
    assert float((products - 1).square().mean().sqrt()) == pytest.approx(1e-6 * math.sqrt(3), rel=5 / root)
    assert float((in_place - 1).square().mean().sqrt()) == pytest.approx(1e-6 * math.sqrt(2), rel=5 / root)
    assert bool((moved == 1).all())
    # 24 terms of 1: each off by s·u, and their sum by 24 s·u, s² = 1 + 23/6
    expected = 1e-6 * math.sqrt(1 + 23 / 6) * math.sqrt(24 + 24**2)
    assert float((sums - 24).square().mean().sqrt()) == pytest.approx(expected, rel=5 / math.sqrt(4_000))


@pytest.mark.parametrize("network", [VelocityMLP, Lossy, Attention])
def test_imitated_errors_bound_the_real_ones(network: Callable[[], nn.Module]) -> None:
    """Real float32: below the threshold, and not by orders of magnitude."""
    torch.manual_seed(0)
    model = network().float()
    exact_model = copy.deepcopy(model).double()
    x_t, t, centre = torch.randn(4, 3, 4), torch.rand(4), torch.randn(4, 3, 4, dtype=torch.float64)

    def gradient(v: torch.Tensor) -> torch.Tensor:
        return 2 * (v - centre)

    def contributions(model: nn.Module, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        v = model(x_t, t)
        g = gradient(v.detach().double()).to(v)
        rows = []
        for i in range(len(t)):
            found = torch.autograd.grad((v[i] * g[i]).sum(), list(model.parameters()), retain_graph=True)
            rows.append(torch.cat([x.double().flatten() for x in found]))
        return torch.stack(rows)

    exact = contributions(exact_model, x_t.double(), t.double())
    u = unit_roundoff(torch.float32)
    lost = network_rounding(exact_model, x_t.double(), t.double(), gradient, exact, u, 0)
    difference = (contributions(model, x_t, t) - exact).abs()
    ratios = torch.where(difference == 0, 0.0, difference / (u * lost))
    assert float(ratios.max()) < THRESHOLD
    assert float(ratios.square().mean().sqrt()) > 0.01


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_two_mistakes_look_alike(ranks: int, reduction: str) -> None:
    """On the divisions that are tried, any two single mistakes give some sample another weight."""
    base = conforms("awm", batch_reduction=reduction)(lambda model, shard: None).gradcheck_trainer.declaration
    steps = base.steps(ranks)
    tried = [layout for found in layouts(ranks, steps, False).values() for layout in found]
    single = [c for c in hypotheses(base, tried[0]) if sum(bool(x.size) for x in c) == 1]
    # a factor 2 is that of two ranks or micro-batches there, and one rank's mean is the whole batch's
    ambiguous = {"factor-2", "factor-half"} | ({"rank-means"} if ranks == 1 else set())
    seen: dict[tuple[float, ...], str] = {}
    for choices in single:
        name = next(c.name for c in choices if c.size)
        if name in ambiguous:
            continue
        key = tuple(round(float(x), 9) for layout in tried for x in predicted(layout, choices).flatten())
        assert key not in seen, f"{name} and {seen[key]}"
        seen[key] = name
    assert len(seen) > 4


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_divisions(ranks: int) -> None:
    found = layouts(ranks, 3, False)
    assert set(found) | {"advantages", "parameters-untouched", "ranks-agree"} == set(IDS)
    for name, tried in found.items():
        for layout in tried:
            assert layout.total == len(layout.rank) == len(layout.step)
            assert all(b > 0 for shard in layout.sizes for b in shard)
            for over in ("samples", "ranks", "micro-batches"):
                assert math.isclose(float(weights(layout, over).sum()), 1.0)
        shards = {tuple(map(sum, layout.sizes)) for layout in tried}
        assert (name == "equal-shards") == all(len(set(s)) == 1 for s in shards) or name == "unequal-micro-batches"
    assert any(len(set(shard)) > 1 for layout in found["unequal-micro-batches"] for shard in layout.sizes)


def test_weights() -> None:
    layout = Layout(((2, 1), (1, 1)))  # five samples, 3 + 2
    assert weights(layout, "samples").tolist() == [1 / 5] * 5
    assert weights(layout, "ranks").tolist() == [1 / 6] * 3 + [1 / 4] * 2
    assert weights(layout, "micro-batches").tolist() == [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4]
    assert weights(layout, "sum").tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        ({"mean_over": "batches", "shards": "odd"}, {"mean_over", "shards"}),
        ({"micro_batches": 0}, {"micro_batches"}),
        ({"batch_reduction": "none"}, {"batch_reduction"}),
        ({"latent": (0,), "network": 3}, {"latent", "network"}),
        ({"advantages": {"std": "all", "mean": 1}}, {"advantages['std']", "advantages"}),
        ({"statistics": "node", "spread_groups": 2}, {"statistics", "spread_groups"}),
        ({"expected_failures": {"gradient": "x"}}, {"expected_failures"}),
        ({"clip": 3}, {"clip"}),
    ],
)
def test_wrong_declarations(declared: dict[str, Any], names: set[str]) -> None:
    with pytest.raises(InputError) as caught:
        conforms("flow_grpo", **declared)
    assert {name for name, _, _ in caught.value.problems} == names


def test_advantages_of_a_loss_without() -> None:
    with pytest.raises(InputError, match="diffusion_nft, whose loss takes none"):
        conforms("diffusion_nft", advantages={"std": "group"})


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: launch(), "targets"),
        (lambda: launch("x.py", ranks=0), "ranks"),
        (lambda: judge(len), "decorated with gradcheck.distributed.conforms"),
        (lambda: judge(trainers.right_ddp, ONE, ["gradient"]), "obligation: got 'gradient'"),
    ],
)
def test_wrong_calls(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        call()


def test_the_guide_names_everything() -> None:
    declared = GUIDE.partition("## What to declare")[2].partition("## Obligations")[0]
    for name in set(Declaration.__dataclass_fields__) - {"conventions"}:
        assert f"`{name}`" in declared, name
    obligations = GUIDE.partition("## Obligations")[2].partition("## Runs")[0]
    for name in IDS:
        assert f"`{name}`" in obligations, name
    names = set(MISTAKES.values()) - {"unknown"}
    for reduction in ("mean", "sum"):
        base = conforms("awm", batch_reduction=reduction)(lambda model, shard: None).gradcheck_trainer.declaration
        choices = [c for found in hypotheses(base, Layout(((2, 2, 2), (2, 2, 2)))) for c in found if c.size]
        names |= {c.name.partition(":")[0] for c in choices}
    for name in names:
        assert f"`{name}`" in obligations, name
