"""What the public official implementations declare, and frameworks."""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS"]

PRESETS: dict[str, dict[str, Any]] = {
    # the public official implementations, as their code stands
    "flow_grpo-official": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "flow_grpo-official-kl": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "kl": "sigma",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "dance_grpo-official": {
        "algorithm": "flow_grpo",
        "sde": "dance",
        "log_prob_reduction": "mean",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "cps-official": {
        "algorithm": "flow_grpo",
        "sde": "cps",
        "log_prob_reduction": "mean",
        "log_prob_scale": "unit",
        "adv_clip_max": 5.0,
    },
    "ddpo-official": {
        "algorithm": "ddpo",
        "log_prob_reduction": "mean",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
        "noise_level": 1.0,
        "prediction": "epsilon",
    },
    "grpo_guard-official": {
        "algorithm": "grpo_guard",
        "log_prob_reduction": "mean",
        "clip_range": 2e-6,
        "adv_clip_max": 5.0,
    },
    "mix_grpo-official": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "time_weight": "window",
        "kl": "behaviour",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "temp_flow_grpo-official": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "time_weight": "noise",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    # frameworks, as far as they differ from these
    "flow_factory": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "kl": "velocity",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "flow_factory-guard": {  # which is not divided by Δt
        "algorithm": "grpo_guard",
        "log_prob_reduction": "mean",
        "weight": "dt",
        "adv_clip_max": 5.0,
    },
    "rlinf": {"algorithm": "flow_grpo", "clip": "dual", "dual_clip": 3.0, "log_ratio_max": 20.0},
    "unirl": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "steps": True,
        "mask": "samples",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "fpo-official": {"algorithm": "fpo", "reduction": "mean", "error": "noise", "log_ratio_max": 3.0},
    "awm-official": {"algorithm": "awm", "clip": "ppo", "reduction": "mean", "clip_range": 1.0},
    "diffusion_nft-official": {
        "algorithm": "diffusion_nft",
        "reduction": "mean",
        "weighting": "adaptive",
        "reference": "on",
        "policy_factor": 5.0,
    },
}
"""Declarations by name, for ``conforms(preset=...)``."""
