"""Right losses of every algorithm, put together from :mod:`benchmarks.styles` as conventions declare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import Conventions

from .styles import (
    Style,
    column,
    divergence,
    error,
    gaussian_log_prob,
    gaussian_log_ratio,
    mixture,
    over_latent,
    preference_loss,
    squared,
    step,
    surrogate,
)

__all__ = ["right_loss"]


def right_loss(style: Style, conventions: Conventions, case: Case) -> Tensor:
    """The per-sample loss, (B,), in one style."""
    options: dict[str, Any] = {**conventions.options, **dict(conventions.on_top)}
    if conventions.adv_clip_max is not None:
        limit = min(conventions.adv_clip_max, torch.finfo(case.advantage.dtype).max)
        case = case.replace(advantage=case.advantage.clamp(-limit, limit))
    policy, held = _LOSSES[conventions.algorithm](style, case, options)
    loss = conventions.factor * (conventions.policy_factor * policy + held)
    if options.get("mask") == "samples":
        loss = loss * case.window
    return loss * case.dt if options.get("weight") == "dt" else loss


# ------------------------------------------------------------------------------------- the sampling path


def _gaussian(style: Style, case: Case, options: Mapping[str, str], kind: str) -> tuple[Tensor, Tensor, Tensor, str]:
    """Log-ratio, mean and standard deviation of the step, and how sums over the latent go."""
    how = options.get("log_prob_reduction", "sum")
    reverse = step(style, case, kind)
    (mean, std), (mean_old, _) = reverse(case.output), reverse(_named(case, "old"))
    unit = options.get("log_prob_scale") == "unit"
    return gaussian_log_ratio(style, case, mean, mean_old.detach(), std, how, unit), mean, std, how


def _named(case: Case, model: str) -> Tensor:
    found: Tensor = getattr(case, case.output_name.replace("theta", model))
    return found


def _kl(style: Style, case: Case, options: Mapping[str, str], kind: str, mean: Tensor, std: Tensor) -> Tensor | float:
    which = options.get("kl", "none")
    if which == "none":
        return 0.0
    how = options.get("log_prob_reduction", "sum")
    if which == "velocity":
        return case.kl_weight * error(style, case.output, _named(case, "ref"), how, value_counts=False)
    other = step(style, case, kind)(_named(case, "ref"))[0].detach()
    if which == "sigma":
        std = std / torch.sqrt(column(case.dt, std))
    return case.kl_weight * divergence(style, mean, other, std, how)


def _policy_gradient(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    kind = options.get("sde", "flow")
    log_ratio, mean, std, _ = _gaussian(style, case, options, kind)
    policy = surrogate_of(style, case, log_ratio, options)
    if options.get("kl") == "behaviour":
        policy = (
            policy
            + case.kl_weight
            * style.pick(
                "penalty", {"product": lambda: log_ratio * log_ratio / 2, "square": lambda: 0.5 * log_ratio.square()}
            )()
        )
        options = {**options, "kl": "none"}
    return _weighed(style, case, options, kind, policy, mean, std)


def surrogate_of(style: Style, case: Case, log_ratio: Tensor, options: Mapping[str, Any]) -> Tensor:
    if "log_ratio_max" in options:
        log_ratio = log_ratio.clamp(-options["log_ratio_max"], options["log_ratio_max"])
    policy = surrogate(style, log_ratio, case.advantage, case.clip_low, case.clip_high)
    if options.get("clip") != "dual":
        return policy
    return torch.where(case.advantage < 0, torch.minimum(policy, -options["dual_clip"] * case.advantage), policy)


def _weighed(
    style: Style, case: Case, options: Mapping[str, str], kind: str, policy: Tensor, mean: Tensor, std: Tensor
) -> tuple[Tensor, Tensor | float]:
    weight = options.get("time_weight", "none")
    held = _kl(style, case, options, kind, mean, std)
    if weight == "noise":
        policy = policy * (std.flatten() / case.noise_norm)
    if weight == "window":
        return policy * case.window, held * case.window
    return policy, held


def _ddpo(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    log_ratio, mean, std, _ = _gaussian(style, case, options, "ddim")
    return surrogate_of(style, case, log_ratio, options), _kl(style, case, options, "ddim", mean, std)


def _reinforce(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    kind, how = options.get("sde", "flow"), options.get("log_prob_reduction", "sum")
    mean, std = step(style, case, kind)(case.output)
    unit = options.get("log_prob_scale") == "unit"
    policy = -case.advantage * gaussian_log_prob(style, case, mean, std, how, unit)
    return policy, _kl(style, case, options, kind, mean, std)


def _flow_dppo(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    kind = options.get("sde", "flow")
    log_ratio, mean, std, how = _gaussian(style, case, options, kind)
    ratio, a = torch.exp(log_ratio), case.advantage
    mean_old = step(style, case, kind)(case.v_old)[0]
    apart = divergence(style, mean, mean_old, std, how, value_counts=True).detach()
    off = (a * (ratio.detach() - 1) > 0) & (apart > case.divergence_max)
    policy = style.pick(
        "mask",
        {
            "product": lambda: -a * ratio * (~off),
            "where": lambda: -a * torch.where(off, ratio.detach(), ratio),
            "weights": lambda: (-a * (~off).to(a)) * ratio,
        },
    )()
    return policy, _kl(style, case, options, kind, mean, std)


def _guard(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    kind = options.get("sde", "flow")
    how = options.get("log_prob_reduction", "sum")
    reverse = step(style, case, kind)
    (mean, std), (mean_old, _) = reverse(case.v_theta), reverse(case.v_old)
    mean_old = mean_old.detach()

    def corrected() -> Tensor:
        bias = over_latent(style, squared(style, mean, mean_old) / (2 * std**2), how)
        return (gaussian_log_ratio(style, case, mean, mean_old, std, how) + bias) * std.flatten()

    log_ratio = style.pick(
        "log ratio",
        {
            "corrected": corrected,
            "inner product": lambda: over_latent(style, (mean - mean_old) * (case.x_prev - mean_old) / std, how),
        },
    )()
    policy = surrogate_of(style, case, log_ratio, options) / case.dt
    return _weighed(style, case, options, kind, policy, mean, std)


# ------------------------------------------------------------------------------------------- noised data


def _how(options: Mapping[str, str]) -> str:
    return options.get("reduction", "sum")


def _held(style: Style, case: Case, options: Mapping[str, str]) -> Tensor | float:
    which = options.get("reference", "off")
    if which == "off":
        return 0.0
    point = case.v_old if which == "ema" else case.v_ref
    distance = error(style, case.v_theta, point, _how(options), value_counts=False)
    if which == "elbo":
        distance = distance / (2 * case.noise_level**2 * case.t / (1 - case.t))
    return case.kl_weight * distance


def _v_gt(style: Style, case: Case) -> Tensor:
    return style.pick("v_gt", {"given": lambda: case.v_gt, "noise - x_0": lambda: case.noise - case.x_0})()


def _matching(style: Style, case: Case, options: Mapping[str, str], weight: Tensor) -> Tensor:
    """weight · ‖v_theta − v_gt‖², for an advantage also towards a detached target."""
    v, v_gt, how = case.v_theta, _v_gt(style, case), _how(options)

    def to_a_target() -> Tensor:
        return error(style, v, (v + column(weight, v) * (v_gt - v)).detach(), how, value_counts=False)

    return style.pick(
        "matching",
        {
            "weighted": lambda: weight * error(style, v, v_gt, how, value_counts=False),
            "weighed components": lambda: over_latent(style, column(weight, v) * squared(style, v, v_gt), how),
            **({"target": to_a_target} if weight is case_advantage(case) else {}),
        },
    )()


def case_advantage(case: Case) -> Tensor | None:
    return case.advantage if "advantage" in case.names else None


def _awm(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    held = _held(style, case, options)
    if options.get("clip", "none") == "none":
        return _matching(style, case, options, case.advantage), held
    v_gt, t = _v_gt(style, case), case.t if "t" in case.names else torch.ones(())
    new, old = (error(style, v, v_gt, _how(options)) for v in (case.v_theta, case.v_old))
    kind = options.get("omega", "uniform")
    return surrogate_of(style, case, _discrepancy(kind, old, t).detach() - _discrepancy(kind, new, t), options), held


def _discrepancy(kind: str, m: Tensor, t: Tensor) -> Tensor:
    if kind == "huber":
        return t * (torch.sqrt(m + 1e-10) - 1e-5)
    if kind == "ghuber":
        return t * 4 * ((m + 1e-10) ** 0.25 - 1e-10**0.25)
    return {"uniform": m, "t": t * m, "t2": t**2 * m}[kind]


def _rwr(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    plain = options.get("weighting", "exponential") == "reward"
    weight = case.reward if plain else torch.exp(case.reward / case.temperature)
    return _matching(style, case, options, weight), _held(style, case, options)


def _awr(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    a, most = case.advantage / case.temperature, case.weight_max
    weight = style.pick(
        "weight",
        {
            "clamp": lambda: torch.exp(a).clamp(max=most),
            "minimum": lambda: torch.minimum(torch.exp(a), torch.full_like(a, most)),
        },
    )()
    return _matching(style, case, options, weight), _held(style, case, options)


def _fpo(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    v_gt, noisy = _v_gt(style, case), options.get("error", "velocity") == "noise"

    def of_noise(v: Tensor) -> Tensor:
        return error(style, case.x_t + (1 - column(case.t, v)) * v, case.noise, _how(options))

    new, old = (of_noise(v) if noisy else error(style, v, v_gt, _how(options)) for v in (case.v_theta, case.v_old))
    return surrogate_of(style, case, old.detach() - new, options), _held(style, case, options)


def _nft(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    b, how, old = case.beta, _how(options), case.v_old
    r = case.reward_prob if options.get("advantage_mode", "none") == "none" else _probability(case, options)
    plus, minus = mixture(style, old, case.v_theta, b), mixture(style, old, case.v_theta, -b)
    if options.get("weighting", "none") == "none":
        v_gt = _v_gt(style, case)
        good, bad = (error(style, v, v_gt, how, value_counts=False) for v in (plus, minus))
        return r * good + (1 - r) * bad, _held(style, case, options)
    t = column(case.t, old)
    x_t = (1 - t) * case.x_0 + t * case.noise

    def weighed(v: Tensor) -> Tensor:
        x_0_hat = x_t - t * v
        w = over_latent(style, (x_0_hat - case.x_0).abs(), "mean").detach().clamp(min=1e-5)
        return error(style, x_0_hat, case.x_0, how, value_counts=False) / w

    return (r * weighed(plus) + (1 - r) * weighed(minus)) / b, _held(style, case, options)


def _probability(case: Case, options: Mapping[str, str]) -> Tensor:
    a, c = case.advantage, case.advantage_clip
    mode = options["advantage_mode"]
    a = {"positive_only": a.clamp(min=0), "negative_only": a.clamp(max=0), "binary": a.sign(), "all": a}.get(mode, a)
    return a.clamp(-c, c) / c / 2 + 0.5


def _dpo(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    anchor = case.v_ref if options.get("anchor", "reference") == "reference" else case.v_old
    v_gt, how = _v_gt(style, case), _how(options)
    gap = error(style, case.v_theta, v_gt, how) - error(style, anchor, v_gt, how).detach()
    z = case.beta_dpo * case.preference * (gap - case.partner_gap)
    return preference_loss(style, z), _held(style, case, options)


def _dgpo(style: Style, case: Case, options: Mapping[str, str]) -> tuple[Tensor, Tensor | float]:
    v_gt, how = _v_gt(style, case), _how(options)
    gap = error(style, case.v_theta, v_gt, how) - error(style, case.v_ref, v_gt, how).detach()
    z = case.beta_dpo * (case.advantage * gap + case.group_gap)
    return preference_loss(style, z), _held(style, case, options)


_LOSSES = {
    "flow_grpo": _policy_gradient,
    "grpo_guard": _guard,
    "flow_dppo": _flow_dppo,
    "ddpo": _ddpo,
    "reinforce": _reinforce,
    "awm": _awm,
    "diffusion_nft": _nft,
    "rwr": _rwr,
    "awr": _awr,
    "fpo": _fpo,
    "diffusion_dpo": _dpo,
    "dgpo": _dgpo,
}
