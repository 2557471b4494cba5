r"""Where two losses are one: statements that one method's gradient is another's, each proved from both derivations.

A :class:`Coincidence` names two derivations, the condition (what a symbol of either stands for) and the factor between
them.  Its proof inlines both sides down to what is given, so that no symbol can mean one thing on the left and another
on the right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sympy as sp

from derivations.claims import Equal
from derivations.derivation import Derivation, DerivationError, Proof, Step, inline, prove
from derivations.losses.awm import ALGORITHM as AWM
from derivations.losses.awr import ALGORITHM as AWR
from derivations.losses.ddpo import ALGORITHM as DDPO
from derivations.losses.dgpo import ALGORITHM as DGPO
from derivations.losses.diffusion_dpo import ALGORITHM as DIFFUSION_DPO
from derivations.losses.diffusion_nft import ALGORITHM as DIFFUSION_NFT
from derivations.losses.flow_dppo import ALGORITHM as FLOW_DPPO
from derivations.losses.flow_grpo import ALGORITHM as FLOW_GRPO
from derivations.losses.fpo import ALGORITHM as FPO
from derivations.losses.grpo_guard import ALGORITHM as GRPO_GUARD
from derivations.losses.rwr import ALGORITHM as RWR
from derivations.notation import (
    C1,
    C2,
    advantage,
    beta,
    beta_dpo,
    dt,
    group_gap,
    kl_weight,
    misorder_prob,
    noise_norm,
    partner_gap,
    preference,
    reward,
    reward_prob,
    sigma_t,
    temperature,
    v_old,
    v_ref,
    v_theta,
    weight_max,
    window,
)
from derivations.variant import Variant
from derivations.writing.render import text

__all__ = ["COINCIDENCES", "Coincidence", "coincidence_table"]


@dataclass(frozen=True)
class Coincidence:
    """``left = factor · right`` in each of the named parts.

    Attributes:
        name: of the statement.
        sentence: what it tells.
        left, right: two derivations.
        parts: which of ``"loss"``, ``"gradient"``, ``"weight"`` and ``"target"`` agree; the factor is of the gradient
            and the loss, so a statement with a factor names only these.
        where: what symbols stand for, in the two sides' own symbols; it is put in after everything is inlined.
        factor: a scalar, in the two sides' own symbols.
        own_steps: the two sides are on different reverse steps, and each has its own C1 and C2.
        given: what is positive besides, so that each of ``where`` lies in its domain.

    Raises:
        DerivationError: the two sides are on different reverse steps, or define a symbol of the condition differently.
    """

    name: str
    sentence: str
    left: Derivation
    right: Derivation
    parts: tuple[str, ...] = ("gradient",)
    where: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    factor: sp.Expr = sp.S.One
    own_steps: bool = False
    given: tuple[sp.Expr, ...] = ()

    def __post_init__(self) -> None:
        used = set().union(*(sp.sympify(e).free_symbols for e in self.where.values()))
        both = set(self.left.definitions) & set(self.right.definitions)
        differ = {s for s in used & both if self.left.inline(s) != self.right.inline(s)}
        both = set(self.left.coefficients) & set(self.right.coefficients)
        if not self.own_steps:
            differ |= {s for s in _ON_THE_STEP & both if self.left.coefficients[s] != self.right.coefficients[s]}
        if differ:
            names = ", ".join(sorted(s.name for s in differ))
            raise DerivationError(f"{self.name}: {names} means one thing here and another there")

    @property
    def steps(self) -> tuple[Step, ...]:
        """One claim for each part, in what both sides are given."""
        formulas = {**self.left.definitions, **self.right.definitions}
        condition = {symbol: inline(sp.sympify(e), formulas) for symbol, e in self.where.items()}
        claims = {
            part: Equal(
                _opened(self.left, getattr(self.left, part)),
                inline(self.factor, formulas) * _opened(self.right, getattr(self.right, part)),
                condition,
                tuple(inline(e, formulas) for e in self.given),
            )
            for part in self.parts
        }
        return tuple(Step(part, self.sentence, claim) for part, claim in claims.items())

    def prove(self) -> Proof:
        """Check every part."""
        return prove(self.name, self.steps, {})


_ON_THE_STEP = {C1, C2, sigma_t}
"""Coefficients of the reverse step, which stay opaque: both sides are on the same one."""


def _opened(d: Derivation, expr: sp.Expr) -> sp.Expr:
    formulas = {s: e for s, e in d.coefficients.items() if s not in _ON_THE_STEP}
    return inline(expr, {**d.definitions, **formulas})


_clipped_sum = AWM.derive(
    Variant("clipped, summed", "PPO-clipped with ω = 1, summed over coordinates", {"clip": "ppo"})
)
_clipped_mean = AWM.derive("clipped")
_held = AWM.derive("reference")
_online = DIFFUSION_DPO.derive("online")
_fpo_mean = FPO.derive("mean")
_beyond = sp.Symbol("s", positive=True)
_noise_weighted = FLOW_GRPO.derive("noise-weighted")
_in_window = FLOW_GRPO.derive("window")
_mean_kl = FLOW_GRPO.derive(
    Variant("mean, KL", "averaged, with the KL divergence", {"log_prob_reduction": "mean", "kl": "step"})
)
_guard_mean = GRPO_GUARD.derive("mean")
_signed = 2 * reward_prob - 1
_EVERYTHING = ("loss", "gradient", "weight", "target")

COINCIDENCES: tuple[Coincidence, ...] = (
    Coincidence(
        "fpo-is-clipped-awm",
        "FPO is AWM's PPO-clipped form with ω = 1.",
        FPO.derive(),
        _clipped_sum,
        _EVERYTHING,
    ),
    Coincidence(
        "fpo-mean-is-clipped-awm",
        "The same with the mean over coordinates, which is what AWM's authors ship.",
        _fpo_mean,
        _clipped_mean,
        _EVERYTHING,
    ),
    Coincidence(
        "fpo-starts-as-awm",
        "On-policy, FPO's gradient is AWM's: ratio and clip only decide how far a step may go.",
        FPO.derive(),
        AWM.derive(),
        where={v_theta: v_old},
    ),
    Coincidence(
        "awm-of-good-samples",
        "AWM with A = 1 is plain flow matching, which is RWR without reward.",
        AWM.derive(),
        RWR.derive(),
        _EVERYTHING,
        where={advantage: sp.S.One, reward: sp.S.Zero},
    ),
    Coincidence(
        "rwr-is-awm",
        "RWR is AWM with an advantage that is never negative; weight and target share the gradient differently.",
        RWR.derive(),
        AWM.derive(),
        ("loss", "gradient"),
        where={advantage: sp.exp(reward / temperature)},
    ),
    Coincidence(
        "awr-is-rwr",
        "AWR is RWR with the advantage as its reward, for every sample below the clip.",
        AWR.derive(),
        RWR.derive(),
        _EVERYTHING,
        where={reward: advantage, weight_max: sp.exp(advantage / temperature) + _beyond},
    ),
    Coincidence(
        "dpo-is-awm",
        "Diffusion-DPO is AWM with an advantage of its own: what remains to be learnt of the pair.",
        DIFFUSION_DPO.derive(),
        AWM.derive(),
        ("gradient", "weight", "target"),
        where={advantage: beta_dpo * preference * misorder_prob},
    ),
    Coincidence(
        "online-dpo-starts-as-awm",
        "On-policy, with every pair undecided, Diffusion-DPO against the behaviour model is AWM with A = ±β/2.",
        _online,
        AWM.derive(),
        where={v_theta: v_old, partner_gap: sp.S.Zero, advantage: beta_dpo * preference / 2},
    ),
    Coincidence(
        "dgpo-is-awm",
        "DGPO is AWM by a factor that a group's samples have in common: what remains to be learnt of the group.",
        DGPO.derive(),
        AWM.derive(),
        factor=beta_dpo * misorder_prob,
    ),
    Coincidence(
        "dgpo-of-a-pair-is-dpo",
        "DGPO on two samples with the advantages 1 and −1 is Diffusion-DPO.",
        DGPO.derive(),
        DIFFUSION_DPO.derive(),
        _EVERYTHING,
        where={advantage: preference, group_gap: -preference * partner_gap},
    ),
    Coincidence(
        "nft-starts-as-awm",
        "On-policy, DiffusionNFT's gradient is AWM's, times β.",
        DIFFUSION_NFT.derive(),
        AWM.derive(),
        where={v_theta: v_old, advantage: _signed},
        factor=beta,
    ),
    Coincidence(
        "nft-is-held-awm",
        "Off-policy too, if AWM is held at v_old by a reference term of weight β − A, where that is positive: more for "
        "bad samples than for good ones.",
        DIFFUSION_NFT.derive(),
        _held,
        where={v_ref: v_old, advantage: _signed, kl_weight: beta - _signed},
        factor=beta,
        given=(beta - _signed,),
    ),
    Coincidence(
        "guard-starts-as-flow-grpo",
        "On-policy, GRPO-Guard's gradient is Flow-GRPO's, every step weighed by its noise over its length.",
        GRPO_GUARD.derive(),
        FLOW_GRPO.derive(),
        where={v_theta: v_old},
        factor=C2 / dt,
    ),
    Coincidence(
        "noise-weighted-starts-as-guard",
        "On-policy, TempFlow-GRPO's weight by C2 makes Flow-GRPO pull as GRPO-Guard does before its division by Δt: "
        "by C1 alone.",
        _noise_weighted,
        _guard_mean,
        where={v_theta: v_old},
        factor=dt / noise_norm,
    ),
    Coincidence(
        "dppo-starts-as-flow-grpo",
        "On-policy, Flow-DPPO's gradient is Flow-GRPO's: the mask and the clip only decide how far a step may go.",
        FLOW_DPPO.derive(),
        FLOW_GRPO.derive(),
        where={v_theta: v_old},
    ),
    Coincidence(
        "inside-the-window",
        "MixGRPO is Flow-GRPO on the steps inside its window.",
        _in_window,
        _mean_kl,
        _EVERYTHING,
        where={window: sp.S.One},
    ),
    Coincidence(
        "ddpo-is-flow-grpo",
        "DDPO is Flow-GRPO on a step of another path: in C1 and C2 nothing differs.",
        DDPO.derive(),
        FLOW_GRPO.derive(),
        _EVERYTHING,
        own_steps=True,
    ),
)
"""All of them, in reading order."""


def coincidence_table() -> str:
    """The statements in Markdown, each proved before it is written.

    Raises:
        ArithmeticError: one is refused.
    """
    rows = [("method", "is", "where", "in its", "in words"), ("---",) * 5]
    for c in COINCIDENCES:
        if not c.prove().holds:
            raise ArithmeticError(f"{c.name} is refused")
        times = "" if c.factor == 1 else f"{text(c.factor)} · "
        where = ", ".join(f"{text(s)} = {text(e)}" for s, e in c.where.items())
        if c.given:
            where += " if " + ", ".join(f"{text(e)} > 0" for e in c.given)
        where = where or ("C1 and C2 are each step's own" if c.own_steps else "always")
        rows.append((_title(c.left), times + _title(c.right), where, ", ".join(c.parts), c.sentence))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _title(d: Derivation) -> str:
    return d.title if d.variant.name == "paper" else f"{d.title} [{d.variant.name}]"
