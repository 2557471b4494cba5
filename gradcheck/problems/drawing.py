r"""Drawing one problem: what hypothesis draws (a :class:`Spec`), and the numbers that are made of it.

A spec holds shapes, regimes and a seed; the tensors come from a torch generator on the CPU in float64, so the
same spec gives the same problem on every device.  Regimes are chosen per sample, so that a batch mixes time
steps, signs of the advantage and sides of the clip, and a batch-averaged coefficient cannot hide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import sympy as sp
import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import quantity
from derivations.pieces import Piece
from gradcheck.problems.placing import at_divergence, at_log_ratio
from gradcheck.problems.regimes import ADVANTAGE, CLIP_RANGES, DIVERGENCES, POLICY, RARE_ADVANTAGE, TIME, Spec

__all__ = ["Draw"]

_REACH = 8.0
"""How far the noise is scaled where large ratios are wanted.  A Gaussian step's log-ratio, averaged over coordinates,
is at most ½ mean ε², where v_theta puts the mean onto the sample: with ε of size 8 that is 32."""

_OF_THE_TIME = ("t", "dt", "alpha_bar", "alpha_bar_prev", "window")

_WIDTHS = -1.0, 1.5
"""Powers of ten of a clip's width at which ratios are drawn on both sides of its edge; nearer ones a coarse precision
leaves undecided, and of farther ones no clip of that size is told from another."""
_WIDEST = 0.45


class Draw:
    """Draws the quantities of one problem, each by its row of the notation table."""

    def __init__(self, derivation: Derivation, spec: Spec, fixed: Mapping[str, float]) -> None:
        self.derivation, self.spec, self.fixed = derivation, spec, fixed
        self.generator = torch.Generator().manual_seed(spec.seed)
        self.shape = (spec.batch, *spec.latent)
        self._numbers: dict[str, float] = {}
        self._times: list[float] = []
        self._alpha_bars: list[float] = []

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def regimes(self, wanted: str, names: tuple[str, ...]) -> list[str]:
        """One regime for each sample."""
        if wanted != "mixed":
            return [wanted] * self.spec.batch
        picks = torch.randint(len(names), (self.spec.batch,), generator=self.generator)
        return [names[i] for i in picks.tolist()]

    def quantity(self, name: str) -> Tensor | float:
        """A value inside the quantity's domain."""
        if name in self.fixed:
            return self.fixed[name]
        special = getattr(self, f"_{name}", None)
        if special is not None:
            value: Tensor | float = special()
            if self.spec.one_time and name in _OF_THE_TIME and isinstance(value, Tensor):
                value = value[:1].repeat(self.spec.batch)
                self._times = self._times[:1] * self.spec.batch
                self._alpha_bars = self._alpha_bars[:1] * self.spec.batch
            return value
        row = quantity(name)
        if row.axes == "latent":
            return self.normal(*self.shape) * (_REACH if name == "noise" and self._ratios else 1.0)
        if row.domain.inf == 0 and row.domain.sup == sp.oo:  # a scale: from a third to three
            scale = 10 ** self.uniform(-0.5, 0.5, *((self.spec.batch,) if row.axes == "sample" else ()))
            return scale if row.axes == "sample" else float(scale)
        low, high = (float(b) for b in (max(row.domain.inf, -3), min(row.domain.sup, 3)))
        margin = 1e-3 * (high - low)
        inside = self.uniform(low + margin, high - margin, *((self.spec.batch,) if row.axes == "sample" else ()))
        return inside if row.axes == "sample" else float(inside)

    @property
    def _ratios(self) -> bool:
        return self.spec.policy in ("ratios", "huge-ratios")

    def _D(self) -> float:
        return float(math.prod(self.spec.latent))

    def _t(self) -> Tensor:
        spans = {"middle": (0.05, 0.95), "near-data": (-6.0, -2.0), "near-noise": (-6.0, -2.0)}
        spans |= {"between": (-0.05, 0.05), "same": (0.1, 0.9), "pairs": (0.1, 0.9)}
        self._times = []
        for regime in self.regimes(self.spec.time, TIME):
            x = float(self.uniform(*spans[regime]))
            between = 0.008 + x if x > 0 else 0.992 + x
            at = {"middle": x, "near-data": 10**x, "near-noise": 1 - 10**x, "between": between}
            self._times.append(self._shared(self._times, regime) or at.get(regime, x))
        return torch.tensor(self._times, dtype=torch.float64)

    def _shared(self, times: list[float], regime: str) -> float | None:
        """The time that the next sample shares with one before it, if its regime says so."""
        if not times or regime not in ("same", "pairs") or (regime == "pairs" and len(times) % 2 == 0):
            return None
        return times[-1]

    def _dt(self) -> Tensor:
        # a step as long as half of what is left, or as short as 1/1000 of it
        return torch.tensor(self._times, dtype=torch.float64) * 10 ** self.uniform(-3, -0.3, self.spec.batch)

    def _alpha_bar(self) -> Tensor:
        spans = {"middle": (0.05, 0.95), "near-data": (-4.0, -1.5), "near-noise": (-4.0, -1.5)}
        spans |= {"between": (-0.05, 0.05), "same": (0.1, 0.9), "pairs": (0.1, 0.9)}
        self._alpha_bars = []
        for regime in self.regimes(self.spec.time, TIME):
            x = float(self.uniform(*spans[regime]))
            between = 0.025 + x if x > 0 else 0.975 + x
            at = {"middle": x, "near-data": 1 - 10**x, "near-noise": 10**x, "between": between}
            self._alpha_bars.append(self._shared(self._alpha_bars, regime) or at.get(regime, x))
        return torch.tensor(self._alpha_bars, dtype=torch.float64)

    def _alpha_bar_prev(self) -> Tensor:
        # a step in the log signal-to-noise ratio, of a hundredth or up to three
        odds = torch.logit(torch.tensor(self._alpha_bars, dtype=torch.float64))
        return torch.sigmoid(odds + 10 ** self.uniform(-2, 0.5, self.spec.batch))

    def grid(self, drawn: dict[str, Tensor | float], dtype: torch.dtype, noise_at: int = 1) -> dict[str, Tensor]:
        """A time grid through every sample's t; ``dt`` becomes the way to the next point, as rounded.

        With ``noise_at`` 0 the grid is that of time that runs from noise at 0 up to data at 1; ``drawn`` keeps its own,
        from which the grid's times come back to the last bit: 1 − (1 − p) is p where p is the rounded 1 − t.
        """
        t = drawn["t"]
        assert isinstance(t, Tensor)
        points = torch.cat(
            [torch.ones(1, dtype=t.dtype), t, self.uniform(0.05, 0.95, 4), t.min()[None] / 2, t.new_zeros(1)]
        )
        turned = noise_at == 0
        sigmas = (1 - points if turned else points).to(dtype).unique().to(torch.float64)
        sigmas = sigmas if turned else sigmas.flip(0)
        rounded = (1 - t if turned else t).to(dtype).to(torch.float64)
        index = (sigmas[None, :] == rounded[:, None]).to(torch.int64).argmax(1).clamp(max=len(sigmas) - 2)
        drawn["t"] = 1 - rounded if turned else rounded
        if "dt" in drawn:
            drawn["dt"] = (rounded - sigmas[index + 1]).abs()
        return {"sigmas": sigmas, "step_index": index}

    def _noise_level(self) -> float:
        if self.spec.noise == "full":
            return float(self.uniform(0.95, 0.999))
        return float(self.uniform(0.2, 0.95)) if self.spec.noise == "typical" else float(10 ** self.uniform(-4, -2))

    def _sigma_min(self) -> float:
        return float(self.uniform(0, 0.2)) if self.spec.noise != "tiny" else float(10 ** self.uniform(-5, -3))

    def _window(self) -> Tensor:
        return (self.uniform(0, 1, self.spec.batch) < 0.75).to(torch.float64)

    def _mask(self) -> Tensor:
        """Of each sample all coordinates, or a share of them, never none."""
        share = self.uniform(0.2, 1.2, self.spec.batch).reshape(self.spec.batch, *(1,) * len(self.spec.latent))
        kept = self.uniform(0, 1, *self.shape)
        first = kept == kept.flatten(1).amin(1).reshape(share.shape)
        return ((kept < share) | first).to(torch.float64)

    @property
    def _usual_clip(self) -> tuple[tuple[str, float], ...]:
        """The edges near which ratios are drawn, also for a loss that has no clip there."""
        return tuple(zip(("low", "high"), CLIP_RANGES[self.spec.clip], strict=True))

    def _clip_low(self) -> float:
        return CLIP_RANGES[self.spec.clip][0]

    def _clip_high(self) -> float:
        return CLIP_RANGES[self.spec.clip][1]

    def _divergence_max(self) -> float:
        return DIVERGENCES[self.spec.clip]

    def _beta(self) -> float:
        return float(10 ** self.uniform(-1.5, 0.5))

    def _kl_weight(self) -> float:
        return float(10 ** self.uniform(-3, 1))

    @staticmethod
    def _alternating(a: Tensor) -> Tensor:
        """±1 in turn, the first one by the sign of the first number."""
        return torch.sign(a[:1]) * torch.tensor([1.0, -1.0], dtype=a.dtype).repeat(len(a))[: len(a)]

    def _advantage(self) -> Tensor:
        scale = {"typical": 1.0, "zero": 0.0, "extreme": 30.0, "tiny": 1e-9, "huge": 1e4}
        rare: dict[str, Callable[[Tensor], Tensor]] = {
            "unit": self._alternating,
            "good": torch.abs,
            "bad": lambda a: -a.abs(),
            "equal": lambda a: a[:1].expand_as(a),
        }
        if self.spec.advantage in rare:
            return rare[self.spec.advantage](self.normal(self.spec.batch)).clone()
        factors = torch.tensor([scale[r] for r in self.regimes(self.spec.advantage, ADVANTAGE)], dtype=torch.float64)
        return factors * self.normal(self.spec.batch)

    def _reward_prob(self) -> Tensor:
        r = self.uniform(0, 1, self.spec.batch)
        if self.spec.advantage in RARE_ADVANTAGE:
            a = torch.as_tensor(self._advantage()).clamp(-1, 1)
            return 0.5 + a / 2
        ends = torch.randint(2, (self.spec.batch,), generator=self.generator).to(r)
        names = self.regimes(self.spec.advantage, ADVANTAGE)
        zero = torch.tensor([n == "zero" for n in names])
        extreme = torch.tensor([n == "extreme" for n in names])
        return torch.where(zero, torch.full_like(r, 0.5), torch.where(extreme, ends, r))

    def _preference(self) -> Tensor:
        return 2.0 * torch.randint(2, (self.spec.batch,), generator=self.generator).to(torch.float64) - 1

    def _partner_gap(self) -> Tensor:
        if self.spec.margin != "typical":
            return self._margins() / self._given_number("beta_dpo")
        return 10 ** self.uniform(-1, 1, self.spec.batch) * self.normal(self.spec.batch)

    _group_gap = _partner_gap

    def _beta_dpo(self) -> float:
        if self.spec.margin != "typical" and "beta_dpo" in self._numbers:
            return self._numbers["beta_dpo"]
        # a gap that is a sum over coordinates varies by about √D, and then decides a pair neither never nor always
        return float(10 ** self.uniform(-1.5, 0.5)) / math.sqrt(self._D())

    def _reward(self) -> Tensor:
        if self.spec.margin != "typical":
            # the weight times an error, summed, must be a number: in float32, where "far" is drawn, below e^88
            return self._margins().clamp(-700, 40 if self.spec.margin == "far" else 300) * self._given_number(
                "temperature"
            )
        return self.uniform(-3 + 6e-3, 3 - 6e-3, self.spec.batch)

    def _temperature(self) -> float:
        if self.spec.margin != "typical" and "temperature" in self._numbers:
            return self._numbers["temperature"]
        return float(10 ** self.uniform(-0.5, 0.5))

    def _margins(self) -> Tensor:
        """What a margin is to be, (B,), of both signs."""
        low, high = {"wide": (15.0, 80.0), "far": (90.0, 320.0), "beyond": (720.0, 2000.0)}[self.spec.margin]
        sizes = torch.exp(self.uniform(math.log(low), math.log(high), self.spec.batch))
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(self.spec.batch)[: self.spec.batch]
        return sizes * (signs if float(self.uniform(0, 1)) < 0.5 else -signs)

    def _given_number(self, name: str) -> float:
        """A number of the problem that another quantity is measured in, whichever of the two is asked for first."""
        if name not in self.fixed and name not in self._numbers:
            value = self.quantity(name)
            assert isinstance(value, float)
            self._numbers[name] = value
        return self.fixed.get(name, self._numbers.get(name, 1.0))

    def v_theta(self, given: dict[str, Tensor | float]) -> Tensor:
        """The trained model's velocity: v_old plus a step whose length puts the sample into its regime."""
        if self.spec.policy == "start" and isinstance(given.get("v_ref"), Tensor):
            return torch.as_tensor(given["v_ref"]).clone()
        if "v_old" not in given:
            return self.normal(*self.shape)
        v_old = given["v_old"]
        assert isinstance(v_old, Tensor)
        if self.spec.policy == "start":
            return v_old.clone()
        if self._ratios and Piece.RATIO in self.derivation.pieces:
            wanted = self._rare_log_ratios().reshape(self.spec.batch, *(1,) * len(self.spec.latent))
            return at_log_ratio(self.derivation, given, v_old, self.normal(*self.shape), wanted)
        names = self.regimes(self.spec.policy, POLICY if Piece.RATIO in self.derivation.pieces else POLICY[:3])
        column = (self.spec.batch, *(1,) * len(self.spec.latent))
        direction = self.normal(*self.shape)
        if Piece.RATIO not in self.derivation.pieces:
            scales = {"on-policy": 0.0, "near": 1e-3, "off": 1.0}
            return v_old + torch.tensor([scales[n] for n in names], dtype=torch.float64).reshape(column) * direction
        if Piece.DIVERGENCE in self.derivation.pieces and "divergence_max" in given:
            edge = given["divergence_max"]
            assert isinstance(edge, float)
            wanted = torch.tensor([self._divergence(n, edge) for n in names], dtype=torch.float64).reshape(column)
            up = torch.where(self.uniform(0, 1, self.spec.batch).reshape(wanted.shape) < 0.5, 1.0, -1.0)
            return at_divergence(self.derivation, given, v_old, direction, wanted, up)
        wanted = torch.tensor([self._log_ratio(n, given) for n in names], dtype=torch.float64).reshape(column)
        return at_log_ratio(self.derivation, given, v_old, direction, wanted)

    def _divergence(self, regime: str, edge: float) -> float:
        """A divergence of the regime."""
        if regime == "widths":
            return float(10 ** self.uniform(*_WIDTHS) * edge)
        gap = 10 ** float(self.uniform(-4, -0.5))
        x = float(self.uniform(0, 1))
        return {
            "on-policy": 0.0,
            "near": 1e-6 * x * edge,
            "off": 0.1 * x,
            "inside": edge * (1 - gap),
            "outside": edge * (1 + gap),
            "far": 1.0 + x,
        }[regime]

    def _rare_log_ratios(self) -> Tensor:
        """Logarithms of ratios between 1/1000 and 50, or between e^±20 and e^±24, above and below 1 in turn."""
        x = self.uniform(0, 1, self.spec.batch)
        up = 1 + 2.9 * x if self.spec.policy == "ratios" else 20.5 + 3 * x
        down = -1 - 5.9 * x if self.spec.policy == "ratios" else -20.5 - 3 * x
        first = float(self.uniform(0, 1)) < 0.5
        rises = (torch.arange(self.spec.batch) % 2 == 0) == first
        return torch.where(rises, up, down)

    def _log_ratio(self, regime: str, given: dict[str, Tensor | float]) -> float:
        """A log-ratio of the regime: just inside the clip, just outside, far off …"""
        up = float(self.uniform(0, 1)) < 0.5
        low, high = (float(given.get(f"clip_{side}", usual)) for side, usual in self._usual_clip)
        up = up or (low == 1 and regime in ("inside", "outside"))  # there is no lower edge
        edge = 1 + high if up else 1 - low
        if regime == "widths":
            widths = 10 ** float(self.uniform(*_WIDTHS))
            return math.log(1 + math.copysign(min(widths * abs(edge - 1), _WIDEST), edge - 1))
        gap = 10 ** float(self.uniform(-4, -0.5))  # of the clip's width
        x = float(self.uniform(-1, 1))
        ratio = {
            "on-policy": 1.0,
            "near": 1 + 1e-3 * x * (edge - 1),
            "off": math.exp(0.5 * x),
            "inside": 1 + (edge - 1) * (1 - gap),
            "outside": edge + gap * (edge - 1) if up else edge - gap * min(1 - edge, edge),
            "far": math.exp(1.5) if up else math.exp(-4),
        }[regime]
        return math.log(ratio)
