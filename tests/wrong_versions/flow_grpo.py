"""Flow-GRPO, got wrong."""

from __future__ import annotations

import sympy as sp

from derivations.notation import advantage, k, noise, ratio, v_old, v_ref, v_theta
from wrong_versions.base import COMMON, LEMMAS, POLICY, SDE, Edit, WrongTarget, WrongVersion

_SYMBOLIC = "derivations/losses/flow_grpo.py"
_NUMERIC = "gradcheck/losses/flow_grpo.py"
_RATIO = "ratio = torch.exp(log_prob - log_prob_old)"

WRONG_VERSIONS = (
    WrongVersion(
        "objective-minimised",
        "The objective J is minimised where −J is the loss: the sign of the whole gradient.",
        Edit(_SYMBOLIC, "loss=_surrogate + policy.kl_loss", "loss=-_surrogate + policy.kl_loss"),
        "gradient",
        numeric=Edit(_NUMERIC, "policy_loss = ppo_loss(", "policy_loss = -ppo_loss("),
    ),
    WrongVersion(
        "half-missing-in-density",
        "The Gaussian's exponent is over C2² instead of 2 C2²: the log-ratio is doubled.",
        Edit(POLICY, "1 / (2 * C2**2) if", "1 / C2**2 if"),
        "precision",
        numeric=Edit(COMMON, "/ (2 * std**2) - torch.log", "/ std**2 - torch.log"),
    ),
    WrongVersion(
        "density-sign",
        "The log-density is the squared distance instead of minus it.",
        Edit(POLICY, "log_prob_theta: -lam *", "log_prob_theta: lam *"),
        "log-ratio",
        numeric=Edit(COMMON, "log_prob = -((x - mean) ** 2)", "log_prob = ((x - mean) ** 2)"),
    ),
    WrongVersion(
        "ratio-missing",
        "The ratio is left out of the gradient: the old log-density is recomputed from the trained model.",
        Edit(_SYMBOLIC, "pull = advantage * mask * ratio *", "pull = advantage * mask *"),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = torch.exp(log_prob - log_prob.detach())"),
    ),
    WrongVersion(
        "ratio-inverted",
        "The ratio is old over new.",
        Edit(_SYMBOLIC, "ratio: sp.exp(log_ratio)", "ratio: sp.exp(-log_ratio)"),
        "ratio-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = torch.exp(log_prob_old - log_prob)"),
    ),
    WrongVersion(
        "ratio-without-exponential",
        "The log-ratio stands where the ratio belongs.",
        Edit(_SYMBOLIC, "ratio: sp.exp(log_ratio)", "ratio: 1 + log_ratio"),
        "ratio-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = 1 + log_prob - log_prob_old"),
    ),
    WrongVersion(
        "ratio-detached",
        "The policy's own log-density is detached, and only the KL term still trains the model.",
        Edit(_SYMBOLIC, "ratio: sp.exp(log_ratio)", "ratio: sg(sp.exp(log_ratio))"),
        "ratio-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = torch.exp(log_prob - log_prob_old).detach()"),
        variant="kl",
    ),
    WrongVersion(
        "prediction-detached",
        "The log-density is computed without gradients, so that nothing trains.",
        numeric=Edit(_NUMERIC, _RATIO, _RATIO + ".detach()"),
    ),
    WrongVersion(
        "drift-term-dropped",
        "The gradient lacks kδ, the term in v_theta − v_old that is only absent on-policy.",
        Edit(_SYMBOLIC, "ratio * policy.scale * k * (noise + k * delta)\n", "ratio * policy.scale * k * noise\n"),
        "gradient",
        numeric=Edit(
            _NUMERIC,
            _RATIO,
            "ratio = torch.exp(log_prob - log_prob_old + latent_reduce((mean - mean_old)**2 / (2 * std**2), 'sum'))",
        ),
    ),
    WrongVersion(
        "drift-term-without-k",
        "The drift term is δ instead of kδ.",
        Edit(_SYMBOLIC, "policy.scale * k * (noise + k * delta)\n", "policy.scale * k * (noise + delta)\n"),
        "surrogate-gradient",
    ),
    WrongVersion(
        "drift-term-sign",
        "δ is v_old − v_theta.",
        Edit(_SYMBOLIC, "policy.scale * k * (noise + k * delta)\n", "policy.scale * k * (noise - k * delta)\n"),
        "gradient",
    ),
    WrongVersion(
        "clip-ignored",
        "The loss is not clipped: the gradient lacks its mask.",
        Edit(_SYMBOLIC, "pull = advantage * mask *", "pull = advantage *"),
        "surrogate-gradient",
        numeric=Edit(COMMON, "return torch.maximum(unclipped, clipped)", "return unclipped"),
    ),
    WrongVersion(
        "clip-on-both-sides",
        "The clipped term alone: nothing is left of the gradient outside the range, whatever the advantage's sign.",
        numeric=Edit(COMMON, "return torch.maximum(unclipped, clipped)", "return clipped"),
    ),
    WrongVersion(
        "min-for-max",
        "Of −r A and −clip(r) A the smaller one is taken: the pessimistic bound becomes the optimistic one.",
        Edit(LEMMAS, "surrogate = -sp.Min(", "surrogate = -sp.Max("),
        "value-positive-above",
        "L4",
        Edit(COMMON, "torch.maximum(unclipped, clipped)", "torch.minimum(unclipped, clipped)"),
    ),
    WrongVersion(
        "clip-on-the-wrong-side",
        "The clip is active on the other side of the range.",
        Edit(POLICY, "mask = ClipMask(advantage,", "mask = ClipMask(-advantage,"),
        "surrogate-gradient",
    ),
    WrongVersion(
        "clip-one-sided",
        "The ratio is clipped above alone.",
        numeric=Edit(
            COMMON, "torch.clamp(ratio, 1 - clip_low, 1 + clip_high)", "torch.clamp(ratio, max=1 + clip_high)"
        ),
    ),
    WrongVersion(
        "clip-ranges-exchanged",
        "The lower and the upper clip range are exchanged.",
        Edit(POLICY, "ratio, clip_low, clip_high)", "ratio, clip_high, clip_low)"),
        "surrogate-gradient",
        numeric=Edit(COMMON, "1 - clip_low, 1 + clip_high", "1 - clip_high, 1 + clip_low"),
    ),
    WrongVersion(
        "clip-on-log-ratio",
        "The log-ratio is clamped before the exponential, which stops the gradient on both sides.",
        numeric=Edit(
            _NUMERIC,
            _RATIO,
            "ratio = torch.exp((log_prob - log_prob_old).clamp(-case.clip_low, case.clip_high))",
        ),
    ),
    WrongVersion(
        "advantage-missing",
        "The gradient lacks the advantage.",
        Edit(_SYMBOLIC, "pull = advantage * mask *", "pull = mask *"),
        "gradient",
        numeric=Edit(_NUMERIC, "ppo_loss(ratio, case.advantage,", "ppo_loss(ratio, torch.ones_like(case.advantage),"),
    ),
    WrongVersion(
        "advantage-averaged",
        "The advantage is averaged over the batch.",
        numeric=Edit(_NUMERIC, "(ratio, case.advantage,", "(ratio, case.advantage.mean().expand_as(ratio),"),
    ),
    WrongVersion(
        "advantage-reversed",
        "The advantages belong to other samples of the batch.",
        numeric=Edit(_NUMERIC, "(ratio, case.advantage,", "(ratio, case.advantage.flip(0),"),
    ),
    WrongVersion(
        "mean-summed",
        "Coordinates are added up where they were to be averaged: 1/D is missing.",
        Edit(_SYMBOLIC, "pull = advantage * mask * ratio * policy.scale *", "pull = advantage * mask * ratio *"),
        "surrogate-gradient",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.sum(1)"),
        variant="mean",
    ),
    WrongVersion(
        "sum-averaged",
        "Coordinates are averaged where they were to be added up: an extra 1/D.",
        Edit(POLICY, 'return 1 / D if self.log_prob_reduction == "mean"', "return 1 / D if self.log_prob_reduction"),
        "comparison",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.mean(1)"),
    ),
    WrongVersion(
        "one-average-too-many",
        "1/D stands twice in the gradient.",
        Edit(
            _SYMBOLIC,
            "ratio * policy.scale * k * (noise + k * delta)\n",
            "ratio * policy.scale**2 * k * (noise + k * delta)\n",
        ),
        "gradient",
        variant="mean",
    ),
    WrongVersion(
        "score-correction-missing",
        "C1 = Δt, as for the ODE: the SDE's score correction also depends on the velocity.",
        Edit(SDE, "C1: dt * (1 + (1 - t) * sigma_t**2 / (2 * t))", "C1: dt"),
        "mean-slope",
        "sde-flow",
        Edit(COMMON, "v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt", "v * dt"),
    ),
    WrongVersion(
        "step-forward-in-time",
        "Δt has the wrong sign in the mean.",
        Edit(SDE, "mean = x_t - drift * dt", "mean = x_t + drift * dt"),
        "mean",
        "sde-flow",
        Edit(COMMON, "/ (2 * t) * dt) - v *", "/ (2 * t) * dt) + v *"),
    ),
    WrongVersion(
        "sqrt-dt-missing",
        "The standard deviation is σ_t instead of σ_t √Δt.",
        Edit(SDE, "C2: sigma_t * sp.sqrt(dt)", "C2: sigma_t"),
        "variance",
        "sde-flow",
        Edit(COMMON, "return mean, sigma * torch.sqrt(dt)", "return mean, sigma"),
    ),
    WrongVersion(
        "dt-for-sqrt-dt",
        "The standard deviation is σ_t Δt.",
        Edit(SDE, "C2: sigma_t * sp.sqrt(dt)", "C2: sigma_t * dt"),
        "variance",
        "sde-flow",
        Edit(COMMON, "return mean, sigma * torch.sqrt(dt)", "return mean, sigma * dt"),
    ),
    WrongVersion(
        "sigma-of-one-minus-t",
        "t and 1 − t are exchanged in σ_t.",
        Edit(SDE, "noise_level * sp.sqrt(t / (1 - t))", "noise_level * sp.sqrt((1 - t) / t)"),
        "noise-schedule",
        "sde-flow",
        Edit(COMMON, "torch.sqrt(t / (1 - t))", "torch.sqrt((1 - t) / t)"),
    ),
    WrongVersion(
        "sigma-of-another-sde",
        "Flow-SDE's step with Dance-SDE's constant σ.",
        Edit(SDE, "noise_level * sp.sqrt(t / (1 - t))", "noise_level"),
        "noise-schedule",
        "sde-flow",
        Edit(COMMON, 'if kind == "flow" else', 'if kind == "none" else'),
    ),
    WrongVersion(
        "correction-of-one-minus-t",
        "t and 1 − t are exchanged in the score correction.",
        Edit(
            SDE,
            "drift = v_theta + sigma_t**2 / (2 * t) * (x_t + (1 - t) * v_theta)",
            "drift = v_theta + sigma_t**2 / (2 * t) * (x_t + t * v_theta)",
        ),
        "mean-slope",
        "sde-flow",
        Edit(COMMON, "sigma**2 * (1 - t) / (2 * t)", "sigma**2 * t / (2 * (1 - t))"),
    ),
    WrongVersion(
        "dt-averaged",
        "Δt is averaged over a batch of mixed time steps.",
        numeric=Edit(COMMON, "expand(t, x_t), expand(dt, x_t)", "expand(t, x_t), expand(dt.mean().expand_as(dt), x_t)"),
    ),
    WrongVersion(
        "sigma-averaged",
        "The standard deviation is averaged over a batch of mixed time steps.",
        numeric=Edit(
            COMMON, "return mean, sigma * torch.sqrt(dt)", "return mean, (sigma * torch.sqrt(dt)).mean(0, True)"
        ),
    ),
    WrongVersion(
        "state-for-sample",
        "The density is taken at x_t, the state before the step, instead of x_prev.",
        Edit(
            POLICY,
            "log_prob_theta: -lam * Norm2(x_prev - mean_theta)",
            "log_prob_theta: -lam * Norm2(mean_old - mean_theta)",
        ),
        "log-prob-gradient",
        numeric=Edit(_NUMERIC, "log_prob = gaussian_log_prob(case.x_prev,", "log_prob = gaussian_log_prob(case.x_t,"),
    ),
    WrongVersion(
        "sampled-state-without-noise",
        "x_prev is stated with the noise subtracted.",
        Edit(POLICY, "**gaussian_definitions(),", "**gaussian_definitions(), x_prev: mean_old - C2 * noise,"),
        "step-residual",
    ),
    WrongVersion(
        "old-mean-in-log-density",
        "The log-density has the behaviour model's mean, as the article's first formula has: no gradient at all.",
        Edit(POLICY, "Norm2(x_prev - mean_theta)", "Norm2(x_prev - mean_old)"),
        "log-prob-gradient",
        numeric=Edit(
            _NUMERIC, "gaussian_log_prob(case.x_prev, mean, std", "gaussian_log_prob(case.x_prev, mean_old, std"
        ),
        variant="kl",
    ),
    WrongVersion(
        "quoted-sign",
        "The approximation that people quote, with the objective's sign.",
        Edit(_SYMBOLIC, "quoted = advantage * policy.scale", "quoted = -advantage * policy.scale"),
        "approximate-gradient",
    ),
    WrongVersion(
        "quoted-without-k",
        "The quoted approximation A ε has the direction of A k ε, and not its length.",
        Edit(_SYMBOLIC, "quoted = advantage * policy.scale * k *", "quoted = advantage * policy.scale *"),
        "approximate-target",
    ),
    WrongVersion(
        "direction-reversed",
        "The direction-only target lies on the other side.",
        Edit(_SYMBOLIC, "k * noise, -advantage * noise,", "k * noise, advantage * noise,"),
        "direction-only",
    ),
    WrongVersion(
        "article-factor",
        "The article's sg-MSE with weight 1 is said to have the quoted gradient; it is twice that.",
        Edit(_SYMBOLIC, "-2 * quoted", "-quoted"),
        "article-factor",
    ),
    WrongVersion(
        "article-variance",
        "Over 2σ_t² and over 2σ_t²Δt are said to be the same.",
        Edit(_SYMBOLIC, "-dt * Norm2(x_prev - mean_theta)", "-Norm2(x_prev - mean_theta)"),
        "article-variance",
    ),
    WrongVersion(
        "target-sign",
        "The target lies where the loss pushes from.",
        Edit(_SYMBOLIC, "target=v_theta - gradient", "target=v_theta + gradient"),
        "target",
    ),
    WrongVersion(
        "weight-one",
        "The squared distance has weight 1 with the target of weight 1/2: twice the gradient.",
        Edit(_SYMBOLIC, "weight=sp.Rational(1, 2)", "weight=sp.S.One"),
        "equivalence",
    ),
    WrongVersion(
        "weight-negative",
        "A negative weight pushes away from the target that it names.",
        Edit(_SYMBOLIC, "weight=sp.Rational(1, 2)", "weight=-sp.Rational(1, 2)"),
        "weight",
    ),
    WrongVersion(
        "kl-factor",
        "The KL term lacks its 1/2.",
        Edit(POLICY, '"step": k**2,', '"step": 2 * k**2,'),
        "kl-gradient",
        numeric=Edit(_NUMERIC, "(mean - mean_ref) ** 2 / (2 * variance)", "(mean - mean_ref) ** 2 / variance"),
        variant="kl",
    ),
    WrongVersion(
        "kl-without-gradient",
        "The KL term is computed under no_grad: it moves the value and trains nothing.",
        Edit(_SYMBOLIC, "gradient = pull + policy.kl_gradient", "gradient = pull"),
        "gradient",
        numeric=Edit(_NUMERIC, "latent_reduce((mean - mean_ref)", "latent_reduce((mean.detach() - mean_ref)"),
        variant="kl",
    ),
    WrongVersion(
        "kl-without-dt",
        "The KL term is over 2σ_t² where the step's variance is σ_t²Δt.",
        Edit(POLICY, '{"step": 2 * C2**2,', '{"step": 2 * sigma_t**2,'),
        "kl-gradient",
        numeric=Edit(
            _NUMERIC, 'variance = std**2 if kl == "step" else', "variance = std**2 / expand(case.dt, std) if kl else"
        ),
        variant="kl",
    ),
    WrongVersion(
        "kl-with-dt",
        "The public code's KL term, over 2σ_t², gets the step's variance.",
        Edit(POLICY, '"sigma": 2 * sigma_t**2}', '"sigma": 2 * C2**2}'),
        "kl-gradient",
        numeric=Edit(_NUMERIC, "else std**2 / expand(case.dt, std)", "else std**2"),
        variant="kl-sigma",
    ),
    WrongVersion(
        "kl-to-old-model",
        "v_old for v_ref: the KL term holds the model to the behaviour model.",
        Edit(POLICY, "Norm2(mean_theta - mean_ref) / denominator", "Norm2(mean_theta - mean_old) / denominator"),
        "kl-gradient",
        numeric=Edit(_NUMERIC, "step(case.v_ref)", "step(case.v_old)"),
        variant="kl",
    ),
    WrongVersion(
        "kl-weight-missing",
        "The KL term's weight is left out.",
        Edit(POLICY, "return kl_weight * self.per_coordinate * factor", "return self.per_coordinate * factor"),
        "kl-gradient",
        numeric=Edit(_NUMERIC, "policy_loss + case.kl_weight *", "policy_loss +"),
        variant="kl",
    ),
    WrongVersion(
        "kl-sign",
        "The KL divergence is maximised.",
        Edit(_SYMBOLIC, "loss=_surrogate + policy.kl_loss", "loss=_surrogate - policy.kl_loss"),
        "gradient",
        numeric=Edit(_NUMERIC, "policy_loss + case.kl_weight", "policy_loss - case.kl_weight"),
        variant="kl",
    ),
    WrongVersion(
        "cps-budget",
        "CPS adds its noise on top of the noise that it keeps.",
        Edit(SDE, "direction = sp.sqrt(t_prev**2 - C2**2)", "direction = sp.sqrt(t_prev**2 + C2**2)"),
        "noise-budget",
        "sde-cps",
        Edit(COMMON, "torch.sqrt(t_prev**2 - std**2)", "torch.sqrt(t_prev**2 + std**2)"),
        variant="cps",
    ),
    WrongVersion(
        "cps-std-before-the-step",
        "CPS's standard deviation is a share of t instead of t'.",
        Edit(SDE, "C2: t_prev * sp.sin(", "C2: t * sp.sin("),
        "all-noise",
        "sde-cps",
        Edit(COMMON, "std = t_prev * math.sin(", "std = 0.5 * t * math.sin("),
        variant="cps",
    ),
    WrongVersion(
        "cps-unscaled",
        "The density's factor 1/(2 C2²) is left out, as CPS's public code does.",
        Edit(
            POLICY,
            'if self.log_prob_scale == "gaussian" else sp.S.One)',
            'if self.log_prob_scale == "none" else sp.S.One)',
        ),
        "precision",
        numeric=Edit(COMMON, 'if scale == "unit":', "if scale:"),
        variant="cps",
    ),
)

WRONG_TARGETS = (
    WrongTarget("sign", "The target lies on the other side of v_theta.", lambda d: {"target": 2 * v_theta - d.target}),
    WrongTarget("double-step", "The target is as far again.", lambda d: {"target": 2 * d.target - v_theta}),
    WrongTarget("weight-one", "Weight 1 with weight 1/2's target.", lambda d: {"weight": sp.S.One}),
    WrongTarget(
        "quoted",
        "The approximate target in place of the exact one.",
        lambda d: {"target": v_theta - advantage * k * noise},
    ),
    WrongTarget(
        "quoted-ratio",
        "The approximate target with the ratio and without the mask and kδ.",
        lambda d: {"target": v_theta - advantage * ratio * k * noise},
    ),
    WrongTarget(
        "from-old",
        "The step starts at v_old instead of v_theta.",
        lambda d: {"target": d.target - v_theta + v_old},
    ),
    WrongTarget(
        "without-kl",
        "The target forgets the reference.",
        lambda d: {"target": d.target.xreplace({v_ref: v_theta})},
        "kl",
    ),
)
