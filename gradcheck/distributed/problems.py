r"""Global batches, divided over ranks and micro-batches, at a network's own velocities.

A problem is drawn as everywhere (:mod:`gradcheck.problems.building`), then moved to where the network is: every
velocity by :math:`s = v_\theta(x_t, t) - v`, v the drawn one; in the forward process :math:`x_0` by −t s and the noise
by (1 − t) s, which moves v_gt by s and leaves x_t.  Losses depend on differences of velocities alone, so each
sample keeps its regime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from derivations.derivation import Derivation, Process
from derivations.notation import divergence, quantity, ratio, v_theta
from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate
from gradcheck.distributed.declaration import Declaration
from gradcheck.errors import InputError
from gradcheck.parts._advantage_subject import AdvantageConvention, Subject
from gradcheck.problems.building import Spec, build, complete

__all__ = ["Layout", "Problem", "Shard", "estimated", "layouts", "make_problem", "required_advantages", "velocity_of"]

_POOL = 12  # candidates for each sample's place
_CLEAR = 1e-3  # of a clip's kink: far more than float32 leaves open


@dataclass(frozen=True)
class Layout:
    """How a global batch is divided: the size of each rank's micro-batches."""

    sizes: tuple[tuple[int, ...], ...]

    @property
    def total(self) -> int:
        return sum(map(sum, self.sizes))

    @property
    def steps(self) -> int:
        return len(self.sizes[0])

    @cached_property
    def rank(self) -> Tensor:
        """Each sample's rank, (B,); samples are numbered rank by rank, micro-batch by micro-batch."""
        return torch.tensor([r for r, shard in enumerate(self.sizes) for b in shard for _ in range(b)])

    @cached_property
    def step(self) -> Tensor:
        """Each sample's micro-batch on its rank, (B,)."""
        return torch.tensor([m for shard in self.sizes for m, b in enumerate(shard) for _ in range(b)])

    def rows(self, rank: int) -> list[range]:
        """The samples of each of a rank's micro-batches."""
        start = sum(map(sum, self.sizes[:rank]))
        ends = [start]
        for b in self.sizes[rank]:
            ends.append(ends[-1] + b)
        return [range(a, b) for a, b in pairwise(ends)]

    def describe(self) -> str:
        """In words, as a report tells it."""
        shards = ", ".join("+".join(map(str, shard)) for shard in self.sizes)
        return f"{self.total} samples; micro-batches of each rank: {shards}"


def layouts(ranks: int, steps: int, equal_only: bool) -> dict[str, list[Layout]]:
    """The divisions that each obligation is checked on."""
    uneven = [(3, 1, 4)[m % 3] for m in range(steps)]  # none is the average: each one's weight depends on its size
    rotated = [[uneven[(m + r) % steps] for m in range(steps)] for r in range(ranks)]
    found = {"equal-shards": [Layout(((2,) * steps,) * ranks)]}
    if ranks > 1 and not equal_only:
        found["unequal-shards"] = [Layout(tuple(((3, 2, 4)[r % 3],) * steps for r in range(ranks)))]
    if steps > 1:
        found["unequal-micro-batches"] = [Layout(tuple(map(tuple, rotated)))]
        if ranks > 1 and not equal_only:
            for shard in rotated[1::2]:
                shard[shard.index(max(shard))] -= 1
            found["unequal-micro-batches"].append(Layout(tuple(map(tuple, rotated))))
    return found


@dataclass(frozen=True)
class Problem:
    """One global batch.

    Attributes:
        number: the seed that it was drawn with.
        obligation: what it is for.
        layout: how it is divided.
        case: the whole batch with the network's velocities in ``v_theta`` and the required advantages.
        offered: the quantities that a step is given, of the whole batch; among them
        reward, group: each sample's reward, and the number of its group, (B,).
    """

    number: int
    obligation: str
    layout: Layout
    case: Case
    reward: Tensor
    group: Tensor
    offered: Mapping[str, Tensor | float]

    def shard(self, rank: int) -> Shard:
        return Shard(self, rank, tuple(self.layout.rows(rank)))


class Shard:
    r"""One rank's samples, or one micro-batch of them.

    Quantities are attributes by the notation table's names, with this shard's samples along the first axis: ``x_t``
    and ``t`` for the network, and what the loss is made of, except ``v_theta``, which is the network's output: see
    :meth:`case`.  Besides: ``reward`` (b,) and ``group`` (b,), the number of each sample's reward group.

    Attributes:
        rank, world_size: this process's, and how many there are.
        global_size: samples of the global batch B, over all ranks.
        rows: this shard's samples as a slice of the rank's shard.
    """

    def __init__(self, problem: Problem, rank: int, rows: tuple[range, ...]) -> None:
        self._problem, self._rows = problem, rows
        self.rank, self.world_size = rank, len(problem.layout.sizes)
        self.global_size = problem.layout.total
        first = problem.layout.rows(rank)[0].start
        self.rows = slice(rows[0].start - first, rows[-1].stop - first)

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def __repr__(self) -> str:
        return f"Shard(rank {self.rank} of {self.world_size}, {len(self)} of {self.global_size} samples)"

    @property
    def names(self) -> tuple[str, ...]:
        """What this shard holds."""
        return tuple(self._problem.offered)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            value = self._problem.offered[name]
        except KeyError:
            raise AttributeError(f"[gradcheck] {_absent(name)}; a shard has {', '.join(self.names)}") from None
        return value[self._rows[0].start : self._rows[-1].stop].clone() if isinstance(value, Tensor) else value

    def micro_batches(self) -> list[Shard]:
        """This shard's micro-batches, whose sizes may differ."""
        return [Shard(self._problem, self.rank, (rows,)) for rows in self._rows]

    def case(self, v_theta: Tensor, **computed: Tensor) -> Case:
        r"""These samples as a :class:`gradcheck.Case`, at the network's velocity.

        Args:
            v_theta: the network's output, (b, \*latent), with its graph.
            computed: what the step computed itself, ``advantage`` for instance.
        """
        offered = {name: getattr(self, name) for name in self.names}
        return Case(self._problem.case.label, {**offered, **computed, "v_theta": v_theta})


def _absent(name: str) -> str:
    reasons = {
        "v_theta": "v_theta is the network's output: shard.case(model(shard.x_t, shard.t))",
        "advantage": "the declaration says that the step computes advantage, from shard.reward and shard.group",
    }
    return reasons.get(name, f"no quantity {name!r}")


def make_problem(
    declaration: Declaration, obligation: str, layout: Layout, network: nn.Module, seed: int, dtype: torch.dtype
) -> Problem:
    """Draw a global batch for a network.

    Args:
        declaration: of the trainer.
        obligation: what the problem is for; ``"advantages"`` spreads the reward groups over the ranks.
        layout: sizes.
        network: the network itself, of precision ``dtype``.
        seed: of everything random.
        dtype: of the tensors.

    Raises:
        InputError: the network does not map (x_t, t) to a velocity, sample by sample.
    """
    derivation, count = declaration.conventions.derivation, layout.total
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(count) % 2 if obligation == "advantages" else layout.rank
    reward = (0.8 + 0.5 * group + 0.3 * torch.randn(count, generator=generator, dtype=torch.float64)).to(dtype)
    spec = Spec(_POOL * count, declaration.latent, seed, policy="off", advantage="typical", time="middle")
    drawn = build(derivation, spec, fixed=declaration.conventions.fixed)
    given = {name: getattr(drawn, name) for name in derivation.given}
    pool = {name: value.detach() for name, value in given.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in given.items() if not isinstance(value, Tensor)}
    pool.setdefault("t", 0.05 + 0.9 * torch.rand(_POOL * count, generator=generator, dtype=torch.float64))
    if declaration.advantages is not None:
        advantage, _ = required_advantages(declaration, layout, reward, group)
        pool["advantage"] = advantage.repeat_interleave(_POOL)
    elif "reward" in pool:
        pool["reward"] = reward.to(torch.float64).repeat_interleave(_POOL)
    rows = _chosen(declaration, Case(derivation.label, {**pool, **numbers}), count)
    placed = {name: value[rows].to(dtype) for name, value in pool.items()}
    _move_to_the_network(derivation.process, placed, network)
    case = complete(derivation, {name: placed[name] if name in placed else numbers[name] for name in derivation.given})
    return Problem(seed, obligation, layout, case, reward, group, _offered(declaration, case, placed, reward, group))


def required_advantages(
    declaration: Declaration, layout: Layout, reward: Tensor, group: Tensor
) -> tuple[Tensor, Tensor]:
    """The declared advantages and their error scale, (B,) each, in float64."""
    assert declaration.advantages is not None
    return estimated(declaration.advantages, reward, group, layout.rank if declaration.statistics == "rank" else None)


def estimated(
    convention: AdvantageConvention, reward: Tensor, group: Tensor, within: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Advantages by an estimator that sees the samples of each part in ``within`` alone, with their error scale."""
    subject = Subject(lambda rewards, ids: rewards, "", convention, 0)  # only asked what it would require
    value, scale = torch.zeros_like(reward, dtype=torch.float64), torch.zeros_like(reward, dtype=torch.float64)
    part = torch.zeros_like(group) if within is None else within
    for number in part.unique().tolist():
        members = part == number
        value[members], scale[members] = subject.required(reward[members], group[members])
    return value, scale


def _chosen(declaration: Declaration, pool: Case, count: int) -> Tensor:
    """One candidate for each place, (B,): the first is clipped, the others are not, and none is near a kink.

    A clipped sample has no gradient, so its weight could not be seen; but one is needed, to see whether it counts.
    """
    first = torch.arange(count) * _POOL
    derivation = declaration.conventions.derivation
    if Piece.RATIO not in derivation.pieces:
        return first
    (r,) = evaluate(derivation, pool, ratio, dtype=torch.float64)
    if Piece.DIVERGENCE in derivation.pieces:
        return first + _beyond_divergence(derivation, pool, (r.flatten() - 1) * pool.advantage, count)
    off = (r.reshape(count, _POOL) - 1) * pool.advantage.reshape(count, _POOL).sign()
    low, high = pool.clip_low, pool.clip_high
    kinks = torch.stack([r - 1, r - 1 + low, r - 1 - high]).abs().amin(0).reshape(count, _POOL)
    clipped = torch.where(pool.advantage.reshape(count, _POOL) > 0, off > high, off > low)
    wanted = off < 0
    wanted[0] = clipped[0] if bool((clipped[0] & (kinks[0] > _CLEAR)).any()) else wanted[0]
    score = torch.where(wanted & (kinks > _CLEAR), 2.0, 0.0) + kinks.clamp(max=1.0)
    if Piece.WINDOW in derivation.pieces:  # what is outside has no gradient either
        score[1:] += 4 * pool.window.reshape(count, _POOL)[1:]
    return first + score.argmax(1)


def _beyond_divergence(derivation: Derivation, pool: Case, off: Tensor, count: int) -> Tensor:
    """As :func:`_chosen`, where a divergence stands in the clip's place; ``off`` is A(r − 1)."""
    (apart,) = evaluate(derivation, pool, divergence, dtype=torch.float64)
    excess = apart.flatten() / pool.divergence_max - 1
    clear = (excess.abs() > _CLEAR) & ((off.abs() > _CLEAR * pool.advantage.abs()) | (excess < 0))
    masked = ((off > 0) & (excess > 0)).reshape(count, _POOL)
    wanted = ~masked
    wanted[0] = masked[0] if bool((masked & clear.reshape(count, _POOL))[0].any()) else wanted[0]
    score = torch.where(wanted & clear.reshape(count, _POOL), 2.0, 0.0) + excess.abs().clamp(max=1.0).reshape(
        count, _POOL
    )
    return score.argmax(1)


def _move_to_the_network(process: Process, given: dict[str, Tensor], network: nn.Module) -> None:
    t = given["t"].to(torch.float64).reshape(-1, *(1,) * (given["v_theta"].ndim - 1))
    wide = {name: value.to(torch.float64) for name, value in given.items()}
    if process == "forward":
        given["x_t"] = ((1 - t) * wide["x_0"] + t * wide["noise"]).to(given["t"])
    v = velocity_of(network, given["x_t"], given["t"]).to(torch.float64)
    shift = v - wide["v_theta"]
    velocities = [name for name in ("v_theta", "v_old", "v_ref") if name in wide]
    moved: dict[str, Tensor] = {name: wide[name] + shift for name in velocities}
    if process == "forward":
        moved |= {"x_0": wide["x_0"] - t * shift, "noise": wide["noise"] + (1 - t) * shift}
    given |= {name: value.to(given["t"]) for name, value in moved.items()}


def velocity_of(network: nn.Module, x_t: Tensor, t: Tensor) -> Tensor:
    r"""The network's velocities, (B, \*latent), each sample alone and without a graph.

    Raises:
        InputError: it returns something else, or mixes the samples of a batch.
    """
    with torch.no_grad():
        try:
            together = network(x_t, t)
        except Exception as error:
            got = f"one whose forward(x_t, t) raises {type(error).__name__}: {error}"
            raise InputError(("network", got, f"velocities {tuple(x_t.shape)}")) from error
        if not isinstance(together, Tensor) or together.shape != x_t.shape:
            got = f"shape {tuple(together.shape)}" if isinstance(together, Tensor) else f"a {type(together).__name__}"
            raise InputError(("network", f"one whose forward(x_t, t) returns {got}", f"velocities {tuple(x_t.shape)}"))
        alone = torch.cat([network(x_t[i : i + 1], t[i : i + 1]) for i in range(len(t))])
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-3 * float(together.abs().max())):
        raise InputError(
            ("network", "one that mixes samples or draws random numbers", "a velocity of each sample, always the same")
        )
    return alone


def _offered(
    declaration: Declaration, case: Case, given: Mapping[str, Tensor], reward: Tensor, group: Tensor
) -> dict[str, Tensor | float]:
    """What a step is given: nothing that depends on the velocity that it computes itself."""
    derivation, conventions = declaration.conventions.derivation, declaration.conventions
    live = {q for q in derivation.defined if derivation.inline(quantity(q).symbol).has(v_theta)}
    offered: dict[str, Tensor | float] = {"reward": reward, "x_t": given["x_t"], "t": given["t"]}
    offered |= {name: getattr(case, name) for name in case.names if name != "v_theta" and name not in live}
    offered |= {"group": group, "timestep": 1000 * given["t"]}
    if "dt" in offered:
        offered["t_prev"] = case.t - case.dt
    if conventions.adv_clip_max is not None:
        offered["adv_clip_max"] = conventions.adv_clip_max
    if "clip_low" in conventions.fixed and case.clip_low == case.clip_high:
        offered["clip_range"] = case.clip_high
    if declaration.advantages is not None:
        offered.pop("advantage")
    return offered
