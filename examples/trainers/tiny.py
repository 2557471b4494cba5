r"""What all trainers here share: a tiny network with LoRA, its scheduler, prompts and a toy reward.

The networks are diffusers' own SD3 and Flux transformers, a thousand times smaller and with random weights, so that a
step takes milliseconds.  The adapters are peft's, the time grid is ``FlowMatchEulerDiscreteScheduler``'s, and
accelerate does what it does elsewhere: mixed precision, gradient accumulation, several processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

WIDTH, TOKENS = 12, 3  # of the prompts' embeddings
LATENT = {"sd3": (4, 8, 8), "flux": (16, 16)}  # C × H × W; packed, S × C


@dataclass(frozen=True)
class Settings:
    """One run.

    Attributes:
        network: ``"sd3"`` or ``"flux"``.
        mixed_precision: accelerate's: ``"no"``, or ``"bf16"`` for a network under autocast, whose output accelerate
            makes float32 again.
        dtype: of the frozen weights, and so of what the network puts out; the adapters stay in float32.
        updates: of the optimiser.
        prompts, group: prompts of a rollout on each process, and samples of each prompt.
        timesteps: of the sampler's grid.
        accumulation: micro-batches of an update.
        guidance: classifier-free guidance; 1 is none.
        every: steps from one judged step to the next one.
        device: ``"cpu"``, or ``"cuda"``; what is drawn is drawn on the CPU, and so is the same on both.
    """

    network: str = "sd3"
    mixed_precision: str = "no"
    dtype: str = "float32"
    updates: int = 200
    prompts: int = 2
    group: int = 4
    timesteps: int = 8
    accumulation: int = 2
    guidance: float = 1.0
    learning_rate: float = 3e-4
    every: int = 1
    seed: int = 0
    device: str = "cpu"
    log: str | None = "gradcheck-watch.jsonl"

    @property
    def batch(self) -> int:
        return self.prompts * self.group


class Tiny:
    """A network with adapters, ready to train.

    Attributes:
        accelerator: of accelerate.
        model: the transformer with its adapters; prepared, so that it may be wrapped (DDP).
        trained: the parameters that the optimiser moves, by name.
        sigmas: the time grid, from 1 down to 0.
    """

    def __init__(self, settings: Settings, adapters: tuple[str, ...] = ("default",)) -> None:
        self.settings = settings
        self.accelerator = Accelerator(
            cpu=settings.device == "cpu",
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.accumulation,
        )
        torch.manual_seed(settings.seed)  # the same weights on every process
        model = with_adapters(settings.network, adapters, getattr(torch, settings.dtype))
        self.trained = [(name, p) for name, p in model.named_parameters() if f".{adapters[0]}." in name]
        optimizer = torch.optim.AdamW([p for _, p in self.trained], settings.learning_rate)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.sigmas = time_grid(settings).to(self.accelerator.device)
        # noise, prompts and rewards differ from process to process
        self.generator = torch.Generator().manual_seed(1_000 * settings.seed + self.accelerator.process_index)

    @property
    def network(self) -> Any:
        """The model without what accelerate wrapped around it: to switch adapters, and to watch."""
        return self.accelerator.unwrap_model(self.model)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.accelerator.device)

    def latents(self) -> Tensor:
        return self.normal(self.settings.batch, *LATENT[self.settings.network])

    def new_prompts(self) -> tuple[dict[str, Tensor], Tensor]:
        """Embeddings, one row a sample, and the number of each sample's prompt."""
        s = self.settings
        which = torch.arange(s.prompts, device=self.accelerator.device).repeat_interleave(s.group)
        first = self.accelerator.process_index * s.prompts
        embeddings = {
            "encoder_hidden_states": self.normal(s.prompts, TOKENS, WIDTH)[which],
            "pooled_projections": self.normal(s.prompts, WIDTH)[which],
        }
        return embeddings, first + which

    def velocity(self, x_t: Tensor, t: Tensor, prompt: dict[str, Tensor]) -> Tensor:
        """One forward pass, (B, \\*latent), in the network's precision; ``t`` is a fraction.

        Which attention computes it is said here: for heads of 8 numbers in bfloat16, the one that torch 2.11 chooses on
        an H200 gives parameters gradients of NaN, which the watch found.
        """
        dtype = getattr(torch, self.settings.dtype)
        prompt = {name: x.to(dtype) for name, x in prompt.items()}
        arguments: dict[str, Any] = {"hidden_states": x_t.to(dtype), **prompt, "return_dict": False}
        if self.settings.network == "sd3":
            arguments["timestep"] = 1000 * t  # SD3 counts to 1000, Flux multiplies by itself
        else:
            rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
            ids = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
            arguments |= {"timestep": t, "img_ids": ids.to(x_t), "txt_ids": x_t.new_zeros(TOKENS, 3)}
            arguments["guidance"] = x_t.new_full((len(x_t),), 3.5)
        with self.accelerator.autocast(), sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            output: Tensor = self.model(**arguments)[0]
        return output

    def gathered_advantages(self, reward: Tensor, which: Tensor) -> Tensor:
        """(R − mean)/std within each prompt's group, wherever its samples are; this process's own, in its own order."""
        everyone, ids = self.accelerator.gather(reward), self.accelerator.gather(which)
        advantage = torch.zeros_like(everyone)
        for i in ids.unique():
            group = everyone[ids == i]
            advantage[ids == i] = (group - group.mean()) / (group.std(correction=0) + 1e-4)
        start = self.accelerator.process_index * len(reward)
        return advantage[start : start + len(reward)]

    def log(self, update: int, reward: Tensor) -> None:
        if update % 50 == 0:
            mean = self.accelerator.gather(reward).mean()
            self.accelerator.print(f"update {update}: mean reward {float(mean):.3f}")


def toy_reward(x_0: Tensor) -> Tensor:
    """Brightness, compressed, (B,): something that an update can raise."""
    return torch.tanh(x_0.flatten(1).mean(1) * 4)


def column(x: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, …, 1)."""
    return x.reshape(-1, *(1,) * (like.ndim - 1))


def time_grid(settings: Settings) -> Tensor:
    """The scheduler's times, (timesteps + 1,), shifted as each pipeline shifts them."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=settings.network == "flux")
    if settings.network == "sd3":
        scheduler.set_timesteps(settings.timesteps)
    else:
        scheduler.set_timesteps(sigmas=[1 - i / settings.timesteps for i in range(settings.timesteps)], mu=0.5)
    sigmas: Tensor = scheduler.sigmas
    return sigmas


def with_adapters(network: str, adapters: tuple[str, ...], dtype: torch.dtype = torch.float32) -> Any:
    """The frozen transformer with LoRA adapters; the first one trains, the others start equal to it."""
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
    from peft import LoraConfig, get_peft_model

    shape = {"attention_head_dim": 8, "num_attention_heads": 2}
    text = {"joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH}
    if network == "sd3":
        base = SD3Transformer2DModel(
            **shape,
            **text,
            caption_projection_dim=16,
            sample_size=8,
            pos_embed_max_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            qk_norm="rms_norm",
        )
    else:
        base = FluxTransformer2DModel(
            **shape,
            **text,
            axes_dims_rope=(2, 2, 4),
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            guidance_embeds=True,
        )
    torch.nn.Module.to(base.requires_grad_(False), dtype)
    modules = ["to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj", "add_q_proj"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=modules, init_lora_weights="gaussian")
    model = get_peft_model(base, config, adapter_name=adapters[0])
    for other in adapters[1:]:
        model.add_adapter(other, config)
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, p in weights.items():
                if f".{other}." in name:
                    p.copy_(weights[name.replace(f".{other}.", f".{adapters[0]}.")])
    model.set_adapter(adapters[0])
    return model.eval()  # no dropout: rollout and training are one mode
