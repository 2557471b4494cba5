r"""Losses in JAX, judged by golden vectors: reads the vectors, differentiates, writes the answers.

    gradcheck vectors export --out vectors 'awm[paper]' 'diffusion_nft[paper]' 'flow_grpo[mean]' 'grpo_guard[mean]'
    python examples/jax_losses.py vectors answers
    gradcheck vectors check vectors answers

Nothing of gradcheck is imported here: a program in any language does the same with the same files.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

jax.config.update("jax_enable_x64", True)  # else JAX turns the float64 vectors into float32

Inputs = dict[str, jax.Array]
Numbers = dict[str, float]


# ------------------------------------------------------------------------- the losses: v, inputs, numbers -> (B,)


def per_sample(x: jax.Array, v: jax.Array) -> jax.Array:
    """(B,) → (B, 1, …, 1)."""
    return x.reshape(-1, *(1,) * (v.ndim - 1))


def over_latent(reduce: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    return reduce(x, axis=tuple(range(1, x.ndim)))


def clipped(ratio: jax.Array, advantage: jax.Array, n: Numbers) -> jax.Array:
    inside = jnp.clip(ratio, 1 - n["clip_low"], 1 + n["clip_high"])
    return -jnp.minimum(advantage * ratio, advantage * inside)


def flow_sde(v: jax.Array, x: Inputs, n: Numbers) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of one reverse step."""
    t, dt = per_sample(x["t"], v), per_sample(x["dt"], v)
    sigma = n["noise_level"] * jnp.sqrt(t / (1 - t))
    drift = v + sigma**2 / (2 * t) * (x["x_t"] + (1 - t) * v)
    return x["x_t"] - drift * dt, sigma * jnp.sqrt(dt)


def log_prob(v: jax.Array, x: Inputs, n: Numbers) -> jax.Array:
    mean, std = flow_sde(v, x, n)
    return over_latent(jnp.mean, -(((x["x_prev"] - mean) / std) ** 2) / 2 - jnp.log(std) - 0.5 * math.log(2 * math.pi))


def flow_grpo_mean(v: jax.Array, x: Inputs, n: Numbers) -> jax.Array:
    ratio = jnp.exp(log_prob(v, x, n) - log_prob(x["v_old"], x, n))
    return clipped(ratio, x["advantage"], n)


def grpo_guard_mean(v: jax.Array, x: Inputs, n: Numbers) -> jax.Array:
    mean, std = flow_sde(v, x, n)
    mean_old, _ = flow_sde(x["v_old"], x, n)
    bias = over_latent(jnp.mean, ((mean - mean_old) / std) ** 2) / 2
    log_ratio = (log_prob(v, x, n) - log_prob(x["v_old"], x, n) + bias) * std.reshape(-1)
    return clipped(jnp.exp(log_ratio), x["advantage"], n) / x["dt"]


def awm(v: jax.Array, x: Inputs, n: Numbers) -> jax.Array:
    return x["advantage"] * over_latent(jnp.sum, (v - (x["noise"] - x["x_0"])) ** 2)


def diffusion_nft(v: jax.Array, x: Inputs, n: Numbers) -> jax.Array:
    v_gt, beta, r = x["noise"] - x["x_0"], n["beta"], x["reward_prob"]
    good = over_latent(jnp.sum, ((1 - beta) * x["v_old"] + beta * v - v_gt) ** 2)
    bad = over_latent(jnp.sum, ((1 + beta) * x["v_old"] - beta * v - v_gt) ** 2)
    return r * good + (1 - r) * bad


LOSSES: dict[str, Callable[[jax.Array, Inputs, Numbers], jax.Array]] = {
    "flow_grpo[mean]": flow_grpo_mean,
    "grpo_guard[mean]": grpo_guard_mean,
    "awm": awm,
    "diffusion_nft": diffusion_nft,
}


# ------------------------------------------------------------------------------------------ reading and writing


def answer(vectors: dict, file: Path) -> dict[str, np.ndarray]:
    """The gradients and losses that one file of vectors asks for, case by case."""
    tensors, loss_of = load_file(file), LOSSES[vectors["label"]]

    @jax.jit
    def gradient_and_losses(v: jax.Array, inputs: Inputs, numbers: Numbers) -> tuple[jax.Array, jax.Array]:
        def total(v: jax.Array) -> tuple[jax.Array, jax.Array]:
            losses = loss_of(v, inputs, numbers)
            return losses.sum(), losses

        return jax.grad(total, has_aux=True)(v)

    out = {}
    for group in vectors["groups"]:
        like = tensors[f"{group['name']}/gradient"]
        dtype = tensors[f"{group['name']}/v_theta"].dtype
        out[f"{group['name']}/gradient"] = np.zeros(like.shape, dtype)
        out[f"{group['name']}/loss"] = np.zeros(like.shape[:1], dtype)
    for case in vectors["cases"]:
        group, rows = case["group"], slice(*case["rows"])
        inputs = {key.removeprefix(f"{group}/"): x[rows] for key, x in tensors.items() if key.startswith(f"{group}/")}
        gradient, losses = gradient_and_losses(inputs["v_theta"], inputs, case["numbers"])
        out[f"{group}/gradient"][rows] = gradient
        out[f"{group}/loss"][rows] = losses
    return out


def main(folder: Path, answers: Path, *dtypes: str) -> None:
    """Answer the vectors of every loss above, in the named precisions or in all."""
    answers.mkdir(parents=True, exist_ok=True)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for vectors in manifest["vectors"]:
        if vectors["label"] in LOSSES:
            for dtype in dtypes or vectors["files"]:
                name = vectors["files"][dtype]["name"]
                save_file(answer(vectors, folder / name), answers / name)
                print(f"answered {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
