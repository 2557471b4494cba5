r"""The equivalent loss at every step of a training run.

At an update the parameters' gradients of the original loss L and of its equivalent, weight · ‖v_theta − sg(target)‖²,
may differ by rounding alone.  As in :mod:`gradcheck.verifying.networks`, with J = ∂v_theta/∂θ and the error scale e
of the two gradients at v_theta, for each parameter p

.. math:: |\partial(\mathcal{L} - \mathcal{L}_{\mathrm{eq}})/\partial\theta_p| \le c\,u \sum_n |J_{np}|\, e_n / R,

where R rows are averaged.  The network is a chain of linear layers, z = aW + b, and a row's ``|J|`` of a weight is the
outer product of ``|a|`` and ``|∂v/∂z|``: the sum is a matrix product, and no Jacobian has to be held.

Two runs that differ by rounding are another matter: training is chaotic, and they drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import Entry
from gradcheck.derived.equivalent import equivalent_loss
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import judgeable, required_gradients
from gradcheck.toy.network import activations, flat
from gradcheck.toy.training import Batch, Method, Settings, Trainer, moving_average

__all__ = ["StepLaw", "Walk", "absolute_pull_back", "equivalent", "step_law", "walk"]


def equivalent(entry: Entry, case: Case) -> Tensor:
    """The equivalent loss, as :class:`Trainer` takes a loss."""
    return equivalent_loss(entry.derivation, case)


def absolute_pull_back(parameters: Sequence[Tensor], x: Tensor, t: Tensor, error: Tensor) -> Tensor:
    r"""Σₙ ``|J_np|`` eₙ for errors e of the velocities, (S, N, 2) → (S, P)."""
    layers = activations(parameters, x, t)
    outputs = [z for _, z in layers]
    totals = [torch.zeros_like(p) for p in parameters]
    for d in range(error.shape[-1]):
        slopes = torch.autograd.grad(outputs[-1][..., d].sum(), outputs, retain_graph=True)
        for i, ((a, _), slope) in enumerate(zip(layers, slopes, strict=True)):
            pulled = slope.abs() * error[..., d, None]
            totals[2 * i] += a.detach().abs().mT @ pulled
            totals[2 * i + 1] += pulled.sum(1, keepdim=True)
    return flat(totals)


@dataclass(frozen=True)
class StepLaw:
    """One update's comparison.

    Attributes:
        ratio: the largest difference of the two gradients in units of the rounding error that is allowed; up to
            :data:`~gradcheck.rounding.bounds.THRESHOLD` it passes.
        distance: ‖∇L − ∇L_eq‖/‖∇L‖, by two separate backward passes; not judged, it has the network's own rounding.
        resolution: the smallest f for which a gradient wrong by the factor 1 + f would be refused.
        judged: the fraction of rows whose clip branch the precision decides; the others are left out.
    """

    ratio: float
    distance: float
    resolution: float
    judged: float

    @property
    def holds(self) -> bool:
        return self.ratio <= THRESHOLD and self.judged > 0


def step_law(trainer: Trainer, batch: Batch) -> StepLaw:
    """Compare the two losses' gradients at a trainer's parameters, all seeds together."""
    case, derivation, dtype = trainer.case(batch), trainer.method.entry.derivation, trainer.old[0].dtype
    gradient, error, _, pull, undecided = required_gradients(derivation, case, False)
    shape = case.v_theta.shape
    judged = judgeable(gradient, error + pull, dtype).expand(shape).all(1) & ~undecided.expand(shape).any(1)
    rows = len(judged) // len(trainer.old[0])
    scale = torch.where(judged[:, None], error + pull, 0.0).unflatten(0, (-1, rows))

    original, equal = (
        torch.where(judged, loss, 0.0)
        for loss in (trainer.loss(trainer.method.entry, case), equivalent(trainer.method.entry, case))
    )
    observed, required, difference = (
        flat(torch.autograd.grad(x.sum() / rows, trainer.parameters, retain_graph=True)).to(torch.float64)
        for x in (original, equal, original - equal)
    )
    allowed = (
        unit_roundoff(dtype) / rows * absolute_pull_back(trainer.parameters, batch.rows["x_t"], batch.rows["t"], scale)
    )
    ratios = torch.where(difference == 0, 0.0, difference.abs() / allowed)
    return StepLaw(
        ratio=float(torch.where(difference.isfinite(), ratios, torch.inf).max()),
        distance=float((observed - required).norm() / observed.norm().clamp(min=torch.finfo(dtype).tiny)),
        resolution=float(THRESHOLD / (required.abs() / allowed).nan_to_num(nan=0.0).max()),
        judged=float(judged.to(torch.float64).mean()),
    )


@dataclass(frozen=True)
class Walk:
    """A training run with the original loss, and beside it one with the equivalent loss.

    Attributes:
        laws: of every update of the first run.
        apart: the distance of the two runs' parameters after every update, over the way that the first has come.
    """

    laws: tuple[StepLaw, ...]
    apart: tuple[float, ...]

    @property
    def holds(self) -> bool:
        return all(law.holds for law in self.laws)


def walk(
    method: Method, base: Sequence[Tensor], seeds: Sequence[int], iterations: int, settings: Settings | None = None
) -> Walk:
    """Train twice from one base, float64 to see the law sharply, and compare at every update."""
    exact = [p.to(torch.float64) for p in base]
    first, second = (Trainer(method, exact, seeds, settings, loss) for loss in (Entry.loss, equivalent))
    start = flat(first.old)
    laws, apart = [], []
    for _ in range(iterations):
        rollouts = first.collect(), second.collect()
        for _ in range(first.settings.updates):
            batches = [trainer.batch(x) for trainer, x in zip((first, second), rollouts, strict=True)]
            laws.append(step_law(first, batches[0]))
            for trainer, batch in zip((first, second), batches, strict=True):
                trainer.update(batch)
            ours, theirs = (flat(trainer.parameters).detach() for trainer in (first, second))
            apart.append(float((ours - theirs).norm() / (ours - start).norm()))
        for trainer in (first, second):
            moving_average(trainer.old, trainer.parameters, method.ema)
    return Walk(tuple(laws), tuple(apart))
