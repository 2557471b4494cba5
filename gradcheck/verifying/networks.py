r"""The comparison at the parameters of a real network: LoRA adapters on a tiny diffusers transformer.

:func:`gradcheck.rounding.compare.compare_entry` compares two gradients at ``v_theta``, a tensor without a past.  Here
``v_theta`` is a network's output, and the gradients are those that an optimiser would receive:

====================  =============================================================================
quantity              comes from
====================  =============================================================================
network               ``SD3Transformer2DModel`` or ``FluxTransformer2DModel``, tiny, with random weights
trained parameters    the LoRA adapters ``theta`` (peft) on its attention layers, A and B both non-zero
``v_old``             the adapters ``old``: after one update of θ, θ_old ← η θ_old + (1 − η) θ
``v_ref``             the same network with its adapters disabled
``alpha_bar`` …       a cosine schedule of the same times, cos²(πt/2)
``t``, ``dt``         neighbours on the grid of ``FlowMatchEulerDiscreteScheduler``, another step for each sample
``x_t``               forward process: (1 − t) x_0 + t·noise; backward process: the state at that step of a rollout
                      of the behaviour model, by the scheduler's own steps
conditioning          random prompt and pooled embeddings; Flux: position ids and a guidance scale
====================  =============================================================================

Steps are chosen among those with t < 1 and t_prev > 0: at t = 1 Flow-SDE's σ_t diverges, and at t_prev = 0 the
CPS step has no noise left, so that neither has a density.

**The bound.**  Let J = ∂v_theta/∂θ, N × P, and let g and g_eq be the two losses' gradients at ``v_theta``.  With
e from the error analysis that judges them there, \|g − g_eq\| ≤ c·u·e componentwise, and so

.. math:: \Big|\frac{\partial(\mathcal{L} - \mathcal{L}_{\mathrm{eq}})}{\partial\theta_p}\Big|
          = \Big|\sum_n J_{np}\,(g - g_{\mathrm{eq}})_n\Big| \le c\,u \sum_n |J_{np}|\, e_n

for every single parameter p; no bound in terms of e alone is smaller, as the signs are free.  The network is small
enough to have J whole: one batched backward pass, shared by all losses.

Both losses stand on one forward graph, so J is the same for both, and what is differentiated is their difference:
back-propagation is linear, ∇L − ∇L_eq = ∇(L − L_eq), and autograd adds up what arrives at ``v_theta`` before it goes
on.  The network's own rounding then acts on a difference of size c·u·e and is of second order.  Subtracted after
two separate passes it is of first order, and possibly of float32's size: diffusers rotates or normalises queries and
keys in float32 whatever the network's dtype.  Those two gradients are in the result too, unjudged.

What it cannot see: mistakes that no parameter feels, and those that scale the gradient by less than
:attr:`NetworkComparison.resolution`.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from derivations.derivation import Derivation, Process
from derivations.notation import divergence, ratio
from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.catalogue import Entry
from gradcheck.derived.compiled import evaluate
from gradcheck.derived.equivalent import equivalent_loss
from gradcheck.errors import GradcheckError, InputError
from gradcheck.problems.building import Spec, build, complete
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import judgeable, required_gradients

__all__ = ["NETWORKS", "NetworkComparison", "available", "compare_network", "network_case"]

NETWORKS = ("sd3", "flux")
"""Names of the networks that can be built."""

_BATCH = 4
_STEPS = 10  # of the time grid; the first starts at t = 1 and the last ends at 0, the others are used
_TOKENS, _WIDTH = 3, 12  # of the prompt embeddings
_EMA = 0.9
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
_LATENT = {"sd3": (4, 4, 4), "flux": (4, 16)}  # C × H × W; packed, S × C: four 2 × 2 patches of 4 channels


def available() -> str | None:
    """``None`` where networks can be built, else the reason why not and what to do."""
    missing = [name for name in ("diffusers", "peft", "transformers") if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"{', '.join(missing)} not installed: pip install 'gradcheck-rl[models]'"


@dataclass(frozen=True)
class NetworkComparison:
    """How far the gradients of a loss and of its equivalent are apart at a network's parameters.

    Attributes:
        entry: the catalogue entry's label.
        network: one of :data:`NETWORKS`.
        dtype: of network and losses.
        ratio: the largest ``|∂(L − L_eq)/∂θ_p| / (u Σ_n |J_np| e_n)``; up to :data:`THRESHOLD` it passes.
        parameter: the adapter weight where that is.
        index: its component there.
        observed, required: that component of the original's and the equivalent's gradient, each by its own backward
            pass, so with the network's own rounding, which ``ratio`` is free of.
        bound: the largest difference that would have passed there.
        distance: ‖∇L − ∇L_eq‖/‖∇L_eq‖ over all parameters, by the two separate passes; not judged.
        resolution: the smallest f for which a gradient wrong by the factor 1 + f is refused.
        judged: the fraction of samples that the precision allows to judge; the others are left out of both losses.
    """

    entry: str
    network: str
    dtype: torch.dtype
    ratio: float
    parameter: str
    index: tuple[int, ...]
    observed: float
    required: float
    bound: float
    distance: float
    resolution: float
    judged: float

    @property
    def holds(self) -> bool:
        return self.ratio <= THRESHOLD and self.judged > 0


def compare_network(
    entry: Entry,
    network: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
) -> NetworkComparison:
    """Judge one catalogue entry at the parameters of one network.

    Args:
        entry: gives the original loss and the derivation of the equivalent one.
        network: one of :data:`NETWORKS`.
        seed: of everything random but the frozen weights, which are the network's own.
        dtype: ``torch.float64`` or ``torch.float32``.
        device: where network and losses are evaluated; the problem is drawn on the CPU in float64.

    Raises:
        InputError: there is no such network, or the precision is another one.
        GradcheckError: diffusers, peft or transformers is missing; the message says how to install them.
    """
    scene = _scene_of(entry, network, seed, dtype, device)
    case = scene.case(entry.derivation)
    gradient, error, _, pull, undecided = required_gradients(entry.derivation, case, False)
    judged = judgeable(gradient, error + pull, dtype).flatten(1).all(1)
    judged &= ~undecided.expand(case.v_theta.shape).flatten(1).any(1)
    scale, gradient = (torch.where(judged[:, None], x.flatten(1), 0.0).flatten() for x in (error + pull, gradient))

    original, equivalent = entry.loss(case)[judged].sum(), equivalent_loss(entry.derivation, case)[judged].sum()
    observed, required, difference = map(scene.gradient, (original, equivalent, original - equivalent))

    allowed = unit_roundoff(dtype) * (scene.jacobian.abs().T @ scale)
    ratios = torch.where(difference == 0, 0.0, difference.abs() / allowed)
    ratios = torch.where(difference.isfinite(), ratios, torch.inf)
    signal = ((scene.jacobian.T @ gradient).abs() / allowed).nan_to_num(nan=0.0).max()
    worst = int(ratios.argmax())
    parameter, index = scene.locate(worst)
    return NetworkComparison(
        entry=entry.label,
        network=network,
        dtype=dtype,
        ratio=float(ratios[worst]),
        parameter=parameter,
        index=index,
        observed=float(observed[worst]),
        required=float(required[worst]),
        bound=float(THRESHOLD * allowed[worst]),
        distance=float((observed - required).norm() / required.norm().clamp(min=torch.finfo(dtype).tiny)),
        resolution=float(THRESHOLD / signal),
        judged=float(judged.to(torch.float64).mean()),
    )


def network_case(
    entry: Entry,
    network: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
) -> Case:
    """The problem that :func:`compare_network` judges: ``v_theta`` is the network's output, with its graph.

    Arguments and errors are those of :func:`compare_network`.
    """
    return _scene_of(entry, network, seed, dtype, device).case(entry.derivation)


def _scene_of(entry: Entry, network: str, seed: int, dtype: torch.dtype, device: str | torch.device) -> _Scene:
    problems = []
    if network not in NETWORKS:
        problems.append(("network", repr(network), f"one of {', '.join(NETWORKS)}"))
    if dtype not in (torch.float64, torch.float32):
        problems.append(("dtype", str(dtype), "torch.float64 or torch.float32"))
    if problems:
        raise InputError(*problems)
    reason = available()
    if reason is not None:
        raise GradcheckError(f"[gradcheck] {reason}")
    return _scene(network, entry.derivation.process, seed, dtype, torch.device(device))


class _Scene:
    r"""One network at one batch of inputs: the velocities, their Jacobian, and what else the losses need.

    Attributes:
        quantities: given quantities of the notation, all but ``v_theta``; latents of shape (B, \*latent).
        v_theta: the trained adapters' velocity, (B, \*latent), with its graph.
        parameters: the trained adapters' weights by name, P components in all.
        jacobian: ∂v_theta/∂parameters, (B·D, P), in float64.
    """

    def __init__(
        self, quantities: Mapping[str, Tensor | float], v_theta: Tensor, parameters: Mapping[str, Tensor]
    ) -> None:
        self.quantities, self.v_theta, self.parameters = quantities, v_theta, parameters
        one_hot = torch.eye(v_theta.numel(), dtype=v_theta.dtype, device=v_theta.device)
        self.jacobian = self._pull_back(v_theta, one_hot.reshape(-1, *v_theta.shape))

    def gradient(self, loss: Tensor) -> Tensor:
        """Gradient of a scalar in the parameters, (P,), in float64."""
        return self._pull_back(loss, torch.ones((1, *loss.shape), dtype=loss.dtype, device=loss.device))[0]

    def _pull_back(self, outputs: Tensor, upstream: Tensor) -> Tensor:
        """Upstream gradients (K, \\*outputs) → gradients (K, P)."""
        several = len(upstream) > 1
        gradients = torch.autograd.grad(
            outputs,
            list(self.parameters.values()),
            upstream if several else upstream[0],
            retain_graph=True,
            is_grads_batched=several,
            materialize_grads=True,
        )
        return torch.cat([g.to(torch.float64).reshape(len(upstream), -1) for g in gradients], dim=1)

    def locate(self, component: int) -> tuple[str, tuple[int, ...]]:
        """The weight that one of the P components belongs to, and its place in it."""
        for name, weight in self.parameters.items():
            if component < weight.numel():
                return name, tuple(int(i) for i in torch.unravel_index(torch.tensor(component), weight.shape))
            component -= weight.numel()
        raise IndexError(component)

    def case(self, derivation: Derivation) -> Case:
        """The derivation's problem.

        A clip lies in the widest gap that leaves half of the batch or more inside: some ratios on either side, and
        none so near that rounding would decide its branch.
        """
        given = {"v_theta": self.v_theta, **self.quantities}
        missing = set(derivation.given) - set(given)
        if missing:  # an algorithm's own parameters, which no network has a say in
            v = self.v_theta
            drawn = build(derivation, Spec(len(v), tuple(v.shape[1:]), seed=0), v.dtype, v.device)
            given |= {name: getattr(drawn, name) for name in missing}
        case = complete(derivation, {name: given[name] for name in derivation.given}, self.v_theta.device)
        bounded = Piece.DIVERGENCE in derivation.pieces
        if bounded or "clip_low" in case.names:
            (x,) = evaluate(derivation, case, divergence if bounded else ratio, dtype=torch.float64)
            off = (x if bounded else (x - 1).abs()).flatten().sort().values[_BATCH // 2 - 1 :]
            gap = int((off[1:] / off[:-1]).argmax())
            width = float((off[gap] + off[gap + 1]) / 2)
            edges = {"divergence_max": width} if bounded else {"clip_low": min(width, 0.9), "clip_high": width}
            case = case.replace(**edges)  # no ratio is below 0
        return case.replace(v_theta=self.v_theta)


@lru_cache(maxsize=16)
def _scene(network: str, process: Process, seed: int, dtype: torch.dtype, device: torch.device) -> _Scene:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    latent = (_BATCH, *_LATENT[network])
    model = _with_adapters(network, normal).to(device, dtype)
    condition = {"encoder_hidden_states": normal(_BATCH, _TOKENS, _WIDTH), "pooled_projections": normal(_BATCH, _WIDTH)}
    condition = {name: x.to(device, dtype) for name, x in condition.items()}

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        # the attention kernel that is written in plain operations: the others' backward pass cannot be batched
        with sdpa_kernel(SDPBackend.MATH):
            return _call(network, model, x_t, t, condition)

    grid = _scheduler(network).sigmas.to(torch.float64)
    steps = 1 + torch.randperm(_STEPS - 2, generator=generator)[:_BATCH]
    times = {"t": grid[steps].to(device, dtype), "dt": (grid[steps] - grid[steps + 1]).to(device, dtype)}
    cosine = torch.cos(math.pi / 2 * grid) ** 2
    alphas = {"alpha_bar": cosine[steps].to(device, dtype), "alpha_bar_prev": cosine[steps + 1].to(device, dtype)}
    x_0, noise = (normal(*latent).to(device, dtype) for _ in range(2))
    with torch.no_grad():
        model.set_adapter("old")
        if process == "backward":
            x_t = _rollout(velocity, _scheduler(network), noise, steps)
            noise = normal(*latent).to(device, dtype)  # of the reverse step
        else:
            t = times["t"].to(torch.float64).reshape(-1, *(1,) * (x_0.ndim - 1))
            x_t = ((1 - t) * x_0.to(torch.float64) + t * noise.to(torch.float64)).to(dtype)
        v_old = velocity(x_t, times["t"])
        with model.disable_adapter():
            v_ref = velocity(x_t, times["t"])
    model.set_adapter("theta")
    v_theta = velocity(x_t, times["t"])
    trained = {
        name.removeprefix("base_model.model.").removesuffix(".theta.weight"): weight
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    reward = normal(_BATCH)
    advantage = (reward - reward.mean()) / reward.std()
    quantities: dict[str, Tensor | float] = {
        "v_old": v_old,
        "v_ref": v_ref,
        "x_0": x_0,
        "noise": noise,
        "x_t": x_t,
        **times,
        **alphas,
        "window": (torch.arange(_BATCH) > 0).to(device, dtype),
        "mask": (torch.arange(x_0.numel()).reshape(x_0.shape) % 5 > 0).to(device, dtype),
        "reward": reward.to(device, dtype),
        "advantage": advantage.to(device, dtype),
        "reward_prob": ((1 + advantage.clamp(-1, 1)) / 2).to(device, dtype),
        "noise_level": 0.7,
        "sigma_min": 0.1,
        "clip_low": 0.2,
        "clip_high": 0.2,
        "beta": 0.5,
        "kl_weight": 0.1,
        "temperature": 1.0,
        "D": float(math.prod(latent[1:])),
    }
    return _Scene(quantities, v_theta, trained)


def _rollout(velocity: Callable[[Tensor, Tensor], Tensor], scheduler: Any, x: Tensor, steps: Tensor) -> Tensor:
    """Sample from noise x, (B, \\*latent); return each sample as it is before its own step."""
    states = []
    for i in range(int(steps.max())):
        states.append(x)
        t = scheduler.sigmas[i].to(x).expand(len(x))
        x = scheduler.step(velocity(x, t), scheduler.timesteps[i], x, return_dict=False)[0]
    states.append(x)
    return torch.stack([states[i][b] for b, i in enumerate(steps.tolist())])


def _scheduler(network: str) -> Any:
    """The scheduler with its time grid: shifted for SD3, shifted by the sequence's length for Flux."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    if network == "sd3":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        scheduler.set_timesteps(_STEPS)
        return scheduler
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    config, tokens = scheduler.config, _LATENT[network][0]
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
    scheduler.set_timesteps(sigmas=[1 - i / _STEPS for i in range(_STEPS)], mu=mu)
    return scheduler


def _call(network: str, model: Any, x_t: Tensor, t: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
    """One forward pass, in the arguments that each pipeline gives its transformer."""
    arguments: dict[str, Any] = {"hidden_states": x_t, **condition, "return_dict": False}
    if network == "sd3":
        arguments["timestep"] = 1000 * t
    else:
        rows, columns = torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")
        image_ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
        arguments |= {
            "timestep": t,
            "img_ids": image_ids.to(x_t),
            "txt_ids": x_t.new_zeros(_TOKENS, 3),
            "guidance": x_t.new_full((len(x_t),), 3.5),
        }
    output: Tensor = model(**arguments)[0]
    return output


def _with_adapters(network: str, normal: Callable[..., Tensor]) -> Any:
    """A copy of the network with its adapters ``theta`` and ``old``."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, lora_alpha=4, target_modules=list(_ADAPTED))
    with torch.random.fork_rng(devices=[]):  # peft draws weights of its own, which are replaced below
        model = get_peft_model(copy.deepcopy(_base(network)), config, adapter_name="theta")
        model.add_adapter("old", config)
    model = model.to(torch.float64).eval()
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            if ".theta." in name:
                start = 0.3 * normal(*weight.shape)
                weight.copy_(start + 0.1 * normal(*weight.shape))
                weights[name.replace(".theta.", ".old.")].copy_(_EMA * start + (1 - _EMA) * weight)
    return model


@lru_cache(maxsize=len(NETWORKS))
def _base(network: str) -> Any:
    """The frozen network, random but always the same."""
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    attention = {"attention_head_dim": 8, "num_attention_heads": 2}
    text = {"joint_attention_dim": _WIDTH, "pooled_projection_dim": _WIDTH}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if network == "sd3":
            model = SD3Transformer2DModel(
                **attention,
                **text,
                caption_projection_dim=16,
                sample_size=4,
                pos_embed_max_size=4,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                qk_norm="rms_norm",
            )
        else:
            model = FluxTransformer2DModel(
                **attention,
                **text,
                axes_dims_rope=(2, 2, 4),
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                guidance_embeds=True,
            )
    return model.requires_grad_(False)
