"""The comparison at the LoRA parameters of real networks: it holds for the catalogue, and refuses what is wrong."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch

from gradcheck.catalogue import CATALOGUE, entry
from gradcheck.errors import GradcheckError, InputError
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import compare_entry, gradient_of
from gradcheck.verifying import networks
from gradcheck.verifying.networks import NETWORKS, compare_network, network_case

_missing = networks.available()
pytestmark = pytest.mark.skipif(_missing is not None, reason=_missing or "")

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")],
    ),
]
everywhere = pytest.mark.parametrize("device", DEVICES)
in_both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
on_both_networks = pytest.mark.parametrize("network", NETWORKS)
for_all_entries = pytest.mark.parametrize("an_entry", CATALOGUE, ids=lambda e: e.label)


def with_loss(an_entry, loss):
    """The entry with another loss in place of its own, and its own derivation."""
    return replace(an_entry, by_hand=loss)


def with_options(an_entry, **options):
    """The entry whose torch loss is computed with other options than its derivation's."""
    return with_loss(an_entry, lambda case, **own: an_entry.by_hand(case, **{**own, **options}))


def scaled(an_entry, factor):
    return with_loss(an_entry, lambda case, **own: factor * an_entry.by_hand(case, **own))


# what holds


@everywhere
@in_both_dtypes
@on_both_networks
@for_all_entries
def test_gradients_agree_at_the_parameters(an_entry, network, dtype, device):
    for seed in (0, 1):
        comparison = compare_network(an_entry, network, seed, dtype, device)
        assert comparison.holds, comparison
        assert comparison.judged == 1, "the seed makes a problem that rounding leaves undecided"
        assert comparison.resolution < 0.05, "the bound would let a wrong gradient pass"
        assert comparison.required != 0


# what is refused


@everywhere
@in_both_dtypes
@on_both_networks
@for_all_entries
def test_twice_the_loss_and_its_opposite_are_refused(an_entry, network, dtype, device):
    for factor in (2.0, -1.0):
        assert not compare_network(scaled(an_entry, factor), network, 0, dtype, device).holds


@in_both_dtypes
@on_both_networks
@for_all_entries
def test_the_resolution_is_where_errors_begin_to_be_refused(an_entry, network, dtype):
    resolution = compare_network(an_entry, network, 0, dtype).resolution
    assert compare_network(scaled(an_entry, 1 + resolution / 2), network, 0, dtype).holds
    assert not compare_network(scaled(an_entry, 1 + 2 * resolution), network, 0, dtype).holds


WRONG = {
    "flow_grpo, D forgotten": with_options(entry("flow_grpo", "mean"), log_prob_reduction="sum"),
    "grpo_guard, D forgotten": with_options(entry("grpo_guard", "mean"), log_prob_reduction="sum"),
    "awm, D forgotten": with_options(entry("awm", "mean"), reduction="sum"),
    "awm[clipped], D forgotten": with_options(entry("awm", "clipped"), reduction="sum"),
    "diffusion_nft, D forgotten": with_options(entry("diffusion_nft", "adaptive"), reduction="sum"),
    "flow_grpo, no KL": with_options(entry("flow_grpo", "kl"), kl="none"),
    "flow_grpo[mean], no KL": with_options(entry("flow_grpo", "kl-sigma"), kl="none"),
    "grpo_guard, no KL": with_options(entry("grpo_guard", "kl"), kl="none"),
    "awm, no reference": with_options(entry("awm", "reference"), reference="off"),
    "awm[clipped], no reference": with_options(entry("awm", "clipped-reference"), reference="off"),
    "diffusion_nft, no reference": with_options(entry("diffusion_nft", "reference"), reference="off"),
    "diffusion_nft[adaptive], no reference": with_options(
        entry("diffusion_nft", "adaptive-reference"), reference="off"
    ),
    "diffusion_nft, not adaptive": with_options(entry("diffusion_nft", "adaptive"), weighting="none"),
    "flow_grpo, variance without dt": with_options(entry("flow_grpo", "kl"), kl="sigma"),
    "flow_grpo, another SDE": with_options(entry("flow_grpo"), sde="dance"),
    "awm, another time weighting": with_options(entry("awm", "clipped-t"), omega="t2"),
    "grpo_guard, Flow-GRPO's loss in its place": replace(entry("grpo_guard"), by_hand=entry("flow_grpo").by_hand),
    "awm, noise for data": with_loss(
        entry("awm"), lambda case, **own: entry("awm").by_hand(case.replace(x_0=case.noise, noise=case.x_0), **own)
    ),
    "diffusion_nft, reference for old": with_loss(
        entry("diffusion_nft", "reference"),
        lambda case, **own: entry("diffusion_nft").by_hand(case.replace(v_old=case.v_ref), **own),
    ),
    "flow_grpo, time averaged over the batch": with_loss(
        entry("flow_grpo"),
        lambda case, **own: entry("flow_grpo").by_hand(case.replace(dt=case.dt.mean().expand_as(case.dt)), **own),
    ),
    "awm, graph cut": with_loss(
        entry("awm"),
        lambda case, **own: entry("awm").by_hand(case.replace(v_theta=case.v_theta.detach().requires_grad_()), **own),
    ),
}


@everywhere
@in_both_dtypes
@on_both_networks
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loss_is_refused(name, network, dtype, device):
    assert not compare_network(WRONG[name], network, 0, dtype, device).holds


@in_both_dtypes
@on_both_networks
def test_a_second_way_to_the_parameters_is_seen_here_and_not_at_the_velocity(network, dtype):
    """A term of value zero that was not detached, and that reaches the weights without passing through v_theta."""
    right = entry("awm")
    scene = networks._scene(network, "forward", 0, dtype, torch.device("cpu"))
    norm = sum((w**2).sum() for w in scene.parameters.values())
    leaking = with_loss(right, lambda case, **own: right.by_hand(case, **own) + (norm - norm.detach()))
    assert compare_entry(leaking, network_case(leaking, network, 0, dtype)).holds
    assert not compare_network(leaking, network, 0, dtype).holds


def test_a_gradient_that_is_not_a_number_is_refused():
    broken = with_loss(entry("awm"), lambda case, **own: entry("awm").by_hand(case, **own) * float("nan"))
    comparison = compare_network(broken, "sd3")
    assert not comparison.holds
    assert comparison.ratio == float("inf")


# what the problems are


@in_both_dtypes
@on_both_networks
@for_all_entries
def test_the_velocity_is_the_networks_and_the_others_are_constants(an_entry, network, dtype):
    case = network_case(an_entry, network, 0, dtype)
    assert case.v_theta.grad_fn is not None
    for name in set(case.names) - {"v_theta"}:
        value = getattr(case, name)
        if isinstance(value, torch.Tensor):
            assert not value.requires_grad, name
            assert value.dtype == dtype, name
            assert value.isfinite().all(), name


@on_both_networks
@pytest.mark.parametrize("process", ["forward", "backward"])
def test_times_are_different_neighbours_on_the_schedulers_grid(network, process):
    grid = networks._scheduler(network).sigmas.to(torch.float64)
    assert grid[0] == 1
    assert grid[-1] == 0
    even = torch.linspace(1, 0, len(grid), dtype=torch.float64)
    assert (grid - even).abs().max() > 0.05, "no shift is visible in the grid"
    for seed in range(5):
        scene = networks._scene(network, process, seed, torch.float64, torch.device("cpu"))
        t, dt = scene.quantities["t"], scene.quantities["dt"]
        assert len(set(t.tolist())) == len(t)
        for now, step in zip(t, dt, strict=True):
            (i,) = (grid == now).nonzero().flatten().tolist()
            assert 0 < grid[i + 1] == now - step
            assert now < 1


@in_both_dtypes
@on_both_networks
def test_the_forward_state_is_the_one_that_the_loss_uses(network, dtype):
    case = network_case(entry("diffusion_nft", "adaptive"), network, 0, dtype)
    fed = networks._scene(network, "forward", 0, dtype, torch.device("cpu")).quantities["x_t"]
    torch.testing.assert_close(case.x_t, fed, rtol=2 * torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)


@on_both_networks
def test_the_backward_state_lies_on_the_behaviour_models_path(network):
    """With the velocity 1 from the state 0, a sample is at t − 1 before its step from t; no later step is taken."""
    seen = []

    def velocity(x, t):
        seen.append(t)
        return torch.ones_like(x)

    scheduler, x = networks._scheduler(network), torch.zeros(3, 2, dtype=torch.float64)
    states = networks._rollout(velocity, scheduler, x, torch.tensor([0, 2, 5]))
    moved = scheduler.sigmas[torch.tensor([0, 2, 5])].to(torch.float64) - 1
    torch.testing.assert_close(states, moved[:, None].expand(3, 2), rtol=0, atol=1e-6)
    assert [float(t[0]) for t in seen] == scheduler.sigmas[:5].tolist()


@in_both_dtypes
@on_both_networks
@pytest.mark.parametrize("process", ["forward", "backward"])
def test_models_differ_and_every_adapter_is_felt(network, dtype, process):
    scene = networks._scene(network, process, 0, dtype, torch.device("cpu"))
    v_old, v_ref = scene.quantities["v_old"], scene.quantities["v_ref"]
    for a, b in ((scene.v_theta, v_old), (scene.v_theta, v_ref), (v_old, v_ref)):
        assert (a - b).flatten(1).norm(dim=1).min() > 0.1
    sizes = [w.numel() for w in scene.parameters.values()]
    columns = scene.jacobian.split(sizes, dim=1)
    unfelt = {name for name, j in zip(scene.parameters, columns, strict=True) if bool((j == 0).all())}
    # SD3's last block drops its context stream, and with it that stream's queries
    last = {f"transformer_blocks.1.attn.add_q_proj.lora_{x}" for x in "AB"}
    assert unfelt == (last if network == "sd3" else set())


@in_both_dtypes
@on_both_networks
def test_the_jacobian_is_that_of_single_backward_passes(network, dtype):
    scene = networks._scene(network, "backward", 0, dtype, torch.device("cpu"))
    upstream = torch.randn(scene.v_theta.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    single = scene.gradient((upstream * scene.v_theta).sum())
    scale = scene.jacobian.abs().T @ upstream.abs().flatten().to(torch.float64)
    # float32 in both lanes: diffusers computes parts of the network in it
    assert (single - scene.jacobian.T @ upstream.flatten().to(torch.float64)).abs().le(1e-5 * scale).all()


@on_both_networks
@pytest.mark.parametrize("an_entry", [e for e in CATALOGUE if "clip_low" in e.derivation.given], ids=lambda e: e.label)
def test_the_clip_stands_between_ratios(an_entry, network):
    """Half of the batch or more is inside the clip, and not all of it."""
    for seed in (0, 1):
        case = network_case(an_entry, network, seed)
        off = (case.ratio - 1).abs()
        assert 0 < (off > case.clip_high).sum() <= len(off) // 2


def test_an_algorithms_own_parameters_are_drawn():
    """An algorithm may bring a quantity that this module has never heard of."""
    scene = networks._scene("flux", "forward", 0, torch.float32, torch.device("cpu"))
    derivation = entry("diffusion_nft").derivation
    fewer = {name: value for name, value in scene.quantities.items() if name not in ("beta", "reward_prob")}
    case = networks._Scene(fewer, scene.v_theta, scene.parameters).case(derivation)
    assert case.beta > 0
    assert case.reward_prob.shape == case.v_theta.shape[:1]
    assert case.reward_prob.dtype == torch.float32


def test_some_samples_are_clipped():
    gradients = []
    for seed in range(3):
        case = network_case(entry("flow_grpo"), "flux", seed)
        gradients.append(gradient_of(entry("flow_grpo").loss(case), case.v_theta).flatten(1))
    zero = (torch.cat(gradients) == 0).all(1)
    assert 0 < zero.sum() < len(zero)


def test_a_seed_settles_the_problem_and_torchs_own_generator_is_left_alone():
    networks._base.cache_clear()
    networks._scene.cache_clear()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = compare_network(entry("awm"), "flux", 3)
    assert torch.equal(torch.get_rng_state(), state)
    networks._base.cache_clear()
    networks._scene.cache_clear()
    torch.manual_seed(2)
    assert compare_network(entry("awm"), "flux", 3) == first
    assert compare_network(entry("awm"), "flux", 4).observed != first.observed


def test_the_result_names_the_weight_and_the_component():
    comparison = compare_network(scaled(entry("awm"), 2.0), "sd3")
    scene = networks._scene("sd3", "forward", 0, torch.float64, torch.device("cpu"))
    weight = scene.parameters[comparison.parameter]
    assert len(comparison.index) == weight.ndim
    assert comparison.observed == pytest.approx(2 * comparison.required)
    assert abs(comparison.observed - comparison.required) > comparison.bound
    assert comparison.ratio > THRESHOLD
    assert comparison.distance == pytest.approx(1)


# bad input


def test_bad_arguments_are_named_together():
    with pytest.raises(InputError, match=r"network: got 'sd4'; wanted one of sd3, flux\n.*dtype: got torch.bfloat16"):
        compare_network(entry("awm"), "sd4", dtype=torch.bfloat16)


def test_a_missing_extra_is_said(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else real(name))
    assert networks.available() == "peft not installed: pip install 'gradcheck-rl[models]'"
    with pytest.raises(GradcheckError, match="peft not installed"):
        compare_network(entry("awm"), "sd3")
