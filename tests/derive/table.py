"""One line for each entry of the catalogue: its loss as a user would write it, and the reverse step it is on."""

from __future__ import annotations

_PPO = "-min(ratio*A, clip(ratio, 1 - eps, 1 + eps)*A)"
_LOG_MEAN = (
    "log_prob_theta = -mean((x_prev - mean_theta)**2)/(2*C2**2); "
    "log_prob_old = -mean((x_prev - mean_old)**2)/(2*C2**2); "
)
_UNIT = "log_prob_theta = -mean((x_prev - mean_theta)**2); log_prob_old = -mean((x_prev - mean_old)**2); "
_GUARD = "ratio = exp(C2*(log_prob_theta - log_prob_old + norm2(mean_theta - mean_old)/(2*C2**2))); "
_GUARD_MEAN = (
    _LOG_MEAN + "ratio = exp(C2*(log_prob_theta - log_prob_old + mean((mean_theta - mean_old)**2)/(2*C2**2))); "
)
_KL_OLD = "divergence = {d}/(2*C2**2); "
_DPPO = "-A*ratio*sg(unless(A*(ratio - 1), divergence - divergence_max))"
_KL = " + kl_weight*norm2(mean_theta - mean_ref)/(2*C2**2)"
_KL_MEAN = " + kl_weight*mean((mean_theta - mean_ref)**2)/(2*C2**2)"
_KL_SIGMA = " + kl_weight*mean((mean_theta - mean_ref)**2)/(2*sigma_t**2)"
_REF = " + kl_weight*norm2(v_theta - v_ref)"
_REF_MEAN = " + kl_weight*mean((v_theta - v_ref)**2)"


def _clipped(discrepancy: str) -> str:
    """AWM's clip, on log p = −discrepancy(mean squared error), written with {v}."""
    theta, old = (discrepancy.replace("{v}", v) for v in ("v_theta", "v_old"))
    return f"log_prob_theta = -{theta}; log_prob_old = -{old}; {_PPO}"


def _nft(form: str) -> str:
    return (
        "v_plus = (1 - beta)*v_old + beta*v_theta; v_minus = (1 + beta)*v_old - beta*v_theta; "
        + f"r*{form.format(v='v_plus')} + (1 - r)*{form.format(v='v_minus')}"
    )


def _mapped(advantage: str) -> str:
    return f"reward_prob = clip({advantage}, -advantage_clip, advantage_clip)/(2*advantage_clip) + 1/2; "


def _gap(form: str, anchor: str = "v_ref") -> str:
    return f"{form.format(v='v_theta')} - {form.format(v=anchor)}"


def _dpo(gap: str) -> str:
    return f"softplus(beta_dpo*preference*({gap} - partner_gap))"


def _dgpo(gap: str) -> str:
    return f"softplus(beta_dpo*(A*({gap}) + group_gap))"


_ADAPTIVE = (
    "v_plus = (1 - beta)*v_old + beta*v_theta; v_minus = (1 + beta)*v_old - beta*v_theta; "
    "x_plus = x_t - t*v_plus; x_minus = x_t - t*v_minus; "
    "w_plus = sg(max(mean_abs(x_plus - x_0), 1e-5)); w_minus = sg(max(mean_abs(x_minus - x_0), 1e-5)); "
    "(r/w_plus*mse(x_plus, x_0) + (1 - r)/w_minus*mse(x_minus, x_0))/beta"
)

EXPRESSIONS: dict[str, tuple[str, str | None]] = {
    "flow_grpo": (_PPO, "flow"),
    "flow_grpo[mean]": (_LOG_MEAN + _PPO, "flow"),
    "flow_grpo[kl]": (_PPO + _KL, "flow"),
    "flow_grpo[kl-sigma]": (_LOG_MEAN + _PPO + _KL_SIGMA, "flow"),
    "flow_grpo[dance]": (_LOG_MEAN + _PPO, "dance"),
    "flow_grpo[cps]": (_PPO, "cps"),
    "flow_grpo[cps-unit]": (_UNIT + _PPO, "cps"),
    "flow_grpo[wan]": (_LOG_MEAN + _PPO + _KL_MEAN, "wan"),
    "flow_grpo[noise-weighted]": (f"{_LOG_MEAN}{_PPO}*C2/noise_norm", "flow"),
    "flow_grpo[window]": (f"{_LOG_MEAN}window*({_PPO}{_KL_MEAN})", "flow"),
    "flow_grpo[window-behaviour]": (
        f"{_LOG_MEAN}window*({_PPO} + kl_weight*(log_prob_theta - log_prob_old)**2/2)",
        "flow",
    ),
    "grpo_guard": (f"{_GUARD}{_PPO}/dt", "flow"),
    "grpo_guard[mean]": (f"{_GUARD_MEAN}{_PPO}/dt", "flow"),
    "grpo_guard[kl]": (f"{_GUARD}{_PPO}/dt{_KL}", "flow"),
    "grpo_guard[kl-sigma]": (f"{_GUARD_MEAN}{_PPO}/dt{_KL_SIGMA}", "flow"),
    "grpo_guard[dance]": (f"{_GUARD_MEAN}{_PPO}/dt", "dance"),
    "grpo_guard[cps]": (f"{_GUARD}{_PPO}/dt", "cps"),
    "grpo_guard[window]": (f"{_GUARD_MEAN}{_PPO}*window/dt", "flow"),
    "grpo_guard[wan]": (f"{_GUARD_MEAN}{_PPO}/dt", "wan"),
    "flow_dppo": (_KL_OLD.format(d="norm2(mean_theta - mean_old)") + _DPPO, "flow"),
    "flow_dppo[mean]": (_LOG_MEAN + _KL_OLD.format(d="mean((mean_theta - mean_old)**2)") + _DPPO, "flow"),
    "flow_dppo[kl]": (_LOG_MEAN + _KL_OLD.format(d="mean((mean_theta - mean_old)**2)") + _DPPO + _KL_MEAN, "flow"),
    "flow_dppo[cps]": (_KL_OLD.format(d="norm2(mean_theta - mean_old)") + _DPPO, "cps"),
    "ddpo": (_PPO, "ddim"),
    "ddpo[mean]": (_LOG_MEAN + _PPO, "ddim"),
    "ddpo[kl]": (_PPO + _KL, "ddim"),
    "awm": ("A*norm2(v_theta - v_gt)", None),
    "awm[mean]": ("A*mean((v_theta - v_gt)**2)", None),
    "awm[reference]": ("A*norm2(v_theta - v_gt)" + _REF, None),
    "awm[clipped]": (_clipped("mean(({v} - v_gt)**2)"), None),
    "awm[clipped-t]": (_clipped("t*mean(({v} - v_gt)**2)"), None),
    "awm[clipped-t2]": (_clipped("t**2*mean(({v} - v_gt)**2)"), None),
    "awm[clipped-huber]": (_clipped("(sqrt(mean(({v} - v_gt)**2) + 1e-10) - 1e-5)*t"), None),
    "awm[clipped-ghuber]": (_clipped("((mean(({v} - v_gt)**2) + 1e-10)**0.25 - 1e-10**0.25)*t/0.25"), None),
    "awm[clipped-reference]": (_clipped("mean(({v} - v_gt)**2)") + _REF_MEAN, None),
    "awm[clipped-elbo]": (_clipped("mean(({v} - noise + x_0)**2)") + _REF_MEAN + "*(1 - t)/(2*noise_level**2*t)", None),
    "awm[clipped-ema]": (_clipped("mean(({v} - v_gt)**2)") + " + kl_weight*mean((v_theta - v_old)**2)", None),
    "diffusion_nft": (_nft("norm2({v} - v_gt)"), None),
    "diffusion_nft[mean]": (_nft("mean(({v} - v_gt)**2)"), None),
    "diffusion_nft[reference]": (_nft("norm2({v} - v_gt)") + _REF, None),
    "diffusion_nft[adaptive]": (_ADAPTIVE, None),
    "diffusion_nft[adaptive-reference]": (_ADAPTIVE + _REF_MEAN, None),
    "diffusion_nft[advantages]": (_mapped("A") + _nft("norm2({v} - v_gt)"), None),
    "diffusion_nft[positive-only]": (_mapped("max(A, 0)") + _nft("norm2({v} - v_gt)"), None),
    "diffusion_nft[binary]": (_mapped("sign(A)") + _nft("mean(({v} - v_gt)**2)"), None),
    "rwr": ("exp(R/tau)*norm2(v_theta - v_gt)", None),
    "rwr[mean]": ("exp(R/tau)*mse(v_theta, v_gt)", None),
    "fpo": (f"ratio = exp(norm2(v_old - v_gt) - norm2(v_theta - v_gt)); {_PPO}", None),
    "rwr[reward]": ("R*mse(v_theta, v_gt)", None),
    "rwr[reference]": ("exp(R/tau)*norm2(v_theta - v_gt)" + _REF, None),
    "awr": ("min(exp(A/tau), weight_max)*norm2(v_theta - v_gt)", None),
    "awr[mean]": ("min(exp(A/tau), weight_max)*mse(v_theta, v_gt)", None),
    "awr[reference]": ("min(exp(A/tau), weight_max)*norm2(v_theta - v_gt)" + _REF, None),
    "diffusion_dpo": (_dpo(_gap("norm2({v} - v_gt)")), None),
    "diffusion_dpo[mean]": (_dpo(_gap("mean(({v} - v_gt)**2)")), None),
    "diffusion_dpo[online]": (_dpo(_gap("norm2({v} - v_gt)", "v_old")), None),
    "diffusion_dpo[reference]": (_dpo(_gap("norm2({v} - v_gt)")) + _REF, None),
    "dgpo": (_dgpo(_gap("norm2({v} - v_gt)")), None),
    "dgpo[mean]": (_dgpo(_gap("mean(({v} - v_gt)**2)")), None),
    "dgpo[reference]": (_dgpo(_gap("norm2({v} - v_gt)")) + _REF, None),
    "fpo[reference]": (f"ratio = exp(mse(v_old, v_gt) - mse(v_theta, v_gt)); {_PPO}{_REF_MEAN}", None),
    "fpo[noise]": (
        f"ratio = exp(mse(x_t + (1 - t)*v_old, noise) - mse(x_t + (1 - t)*v_theta, noise)); {_PPO}",
        None,
    ),
    "fpo[mean]": (f"ratio = exp(mse(v_old, v_gt) - mse(v_theta, v_gt)); {_PPO}", None),
}

ON_BOTH = {"awm[clipped-elbo]"}
"""Losses of the forward process that rest on the sampler's noise too: their line is read as of the backward process,
for which the usual weight is another."""
