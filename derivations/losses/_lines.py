r"""What the losses' own lines share: each loss once more, in the grammar of :mod:`derivations.grammar`.

A line is what a user would type after ``gradcheck derive``.  Every algorithm's file has one for each of its variants;
a test proves that it gives the file's own derivation.
"""

from __future__ import annotations

from derivations.variant import Variant

PPO = "-min(ratio*A, clip(ratio, 1 - eps, 1 + eps)*A)"
LOG_MEAN = (
    "log_prob_theta = -mean((x_prev - mean_theta)**2)/(2*C2**2); "
    "log_prob_old = -mean((x_prev - mean_old)**2)/(2*C2**2); "
)
LOG_UNIT = "log_prob_theta = -mean((x_prev - mean_theta)**2); log_prob_old = -mean((x_prev - mean_old)**2); "
GUARD = "ratio = exp(C2*(log_prob_theta - log_prob_old + norm2(mean_theta - mean_old)/(2*C2**2))); "
GUARD_MEAN = LOG_MEAN + "ratio = exp(C2*(log_prob_theta - log_prob_old + mean((mean_theta - mean_old)**2)/(2*C2**2))); "
DIVERGENCE = "divergence = {d}/(2*C2**2); "
DPPO = "-A*ratio*sg(unless(A*(ratio - 1), divergence - divergence_max))"
KL = " + kl_weight*norm2(mean_theta - mean_ref)/(2*C2**2)"
KL_MEAN = " + kl_weight*mean((mean_theta - mean_ref)**2)/(2*C2**2)"
KL_SIGMA = " + kl_weight*mean((mean_theta - mean_ref)**2)/(2*sigma_t**2)"
REF = " + kl_weight*norm2(v_theta - v_ref)"
REF_MEAN = " + kl_weight*mean((v_theta - v_ref)**2)"


def with_reference(line: str) -> Variant:
    """The paper's form, whose line this is, with the reference term."""
    return Variant("reference", "with a squared distance to the reference velocity", {"reference": "on"}, line + REF)


def clipped(discrepancy: str) -> str:
    """AWM's clip, on log p = −discrepancy(mean squared error), written with {v}."""
    theta, old = (discrepancy.replace("{v}", v) for v in ("v_theta", "v_old"))
    return f"log_prob_theta = -{theta}; log_prob_old = -{old}; {PPO}"


def mixture(form: str) -> str:
    """DiffusionNFT's two branches, each an error in ``form``, written with {v}."""
    return (
        "v_plus = (1 - beta)*v_old + beta*v_theta; v_minus = (1 + beta)*v_old - beta*v_theta; "
        + f"r*{form.format(v='v_plus')} + (1 - r)*{form.format(v='v_minus')}"
    )


def mapped(advantage: str) -> str:
    """The optimality probability that an advantage is mapped to."""
    return f"reward_prob = clip({advantage}, -advantage_clip, advantage_clip)/(2*advantage_clip) + 1/2; "


def gap(form: str, anchor: str = "v_ref") -> str:
    """The trained model's error less the anchor's, in ``form``, written with {v}."""
    return f"{form.format(v='v_theta')} - {form.format(v=anchor)}"


def pair(gap: str) -> str:
    """Diffusion-DPO, as one sample of a pair sees it."""
    return f"softplus(beta_dpo*preference*({gap} - partner_gap))"


def group(gap: str) -> str:
    """DGPO, as one sample of a group sees it."""
    return f"softplus(beta_dpo*(A*({gap}) + group_gap))"


ADAPTIVE = (
    "v_plus = (1 - beta)*v_old + beta*v_theta; v_minus = (1 + beta)*v_old - beta*v_theta; "
    "x_plus = x_t - t*v_plus; x_minus = x_t - t*v_minus; "
    "w_plus = sg(max(mean_abs(x_plus - x_0), 1e-5)); w_minus = sg(max(mean_abs(x_minus - x_0), 1e-5)); "
    "(r/w_plus*mse(x_plus, x_0) + (1 - r)/w_minus*mse(x_minus, x_0))/beta"
)
