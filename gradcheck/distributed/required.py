r"""What every rank's gradient must be, how far rounding may take it, and what other weights of the samples would give.

Sample i contributes :math:`G_i = J_i^{\mathsf T} g_i` to the gradient at the parameters, with the derived gradient
g_i (not yet divided by any batch), and the law is :math:`\sum_i c_i G_i` with the declared weights c.  Rounding
may take it off by

.. math:: c\,u \sum_i |c_i| \Big( |J_i|^{\mathsf T} e_i + n |G_i| + d_i \Big)

where e_i bounds the loss's own error (:mod:`gradcheck.rounding.bounds`), n terms are added up in whatever order, and
d_i is what the network itself loses (:mod:`gradcheck.distributed.rounding`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gradcheck.case import Case
from gradcheck.devices import dtype_name
from gradcheck.distributed.declaration import Declaration
from gradcheck.distributed.problems import Layout, Problem, required_advantages
from gradcheck.distributed.rounding import network_rounding
from gradcheck.errors import GradcheckError
from gradcheck.oracle.required import required_gradient
from gradcheck.oracle.required import required_of as at_velocity
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff

__all__ = ["Required", "required", "weights"]


def weights(layout: Layout, mean_over: str) -> Tensor:
    """Each sample's weight in the gradient, (B,), in float64: ``samples``, ``ranks``, ``micro-batches`` or ``sum``."""
    rank, step = layout.rank.tolist(), layout.step.tolist()
    sizes, ranks, steps = layout.sizes, len(layout.sizes), layout.steps
    out = {
        "samples": lambda r, m: 1 / layout.total,
        "ranks": lambda r, m: 1 / (ranks * sum(sizes[r])),
        "micro-batches": lambda r, m: 1 / (ranks * steps * sizes[r][m]),
        "sum": lambda r, m: 1.0,
    }[mean_over]
    return torch.tensor([out(r, m) for r, m in zip(rank, step, strict=True)], dtype=torch.float64)


@dataclass(frozen=True)
class Required:
    """One problem's law.

    Attributes:
        problem: what it is about.
        contributions: each sample's G_i, (B, P), in float64.
        errors: the error scale of each, (B, P), in units of u.
        weights: the declared ones, (B,).
        u: unit roundoff of the precision that is judged.
        names: the parameters, with their shapes, in the order in which they make up P.
    """

    problem: Problem
    contributions: Tensor
    errors: Tensor
    weights: Tensor
    u: float
    names: Mapping[str, tuple[int, ...]]

    def ratios(self, observed: Tensor, sample_weights: Tensor) -> Tensor:
        """Differences from Σ c_i G_i in units of their rounding error, (P,); up to :data:`THRESHOLD` they pass."""
        difference = (observed - sample_weights @ self.contributions).abs()
        ratios = torch.where(difference == 0, 0.0, THRESHOLD * difference / self.allowed(sample_weights))
        return torch.where(observed.isfinite(), ratios, torch.inf)

    @property
    def gradient(self) -> Tensor:
        """Σ c_i G_i with the declared weights, (P,)."""
        return self.weights @ self.contributions

    def allowed(self, sample_weights: Tensor) -> Tensor:
        """The largest differences from Σ c_i G_i that pass, (P,)."""
        return THRESHOLD * self.u * (sample_weights.abs() @ self.errors)

    def bound(self, component: int) -> float:
        """The largest difference that passes at one component."""
        return float(self.allowed(self.weights)[component])

    @property
    def resolution(self) -> float:
        """The smallest f for which a gradient wrong by the factor 1 + f throughout is refused."""
        size = self.gradient.abs()
        return float(torch.where(size > 0, self.allowed(self.weights) / size, torch.inf).min())

    def locate(self, component: int) -> str:
        """One of the P components as ``parameter[index]``."""
        for name, shape in self.names.items():
            size = torch.Size(shape).numel()
            if component < size:
                index = torch.unravel_index(torch.tensor(component), shape)
                return f"{name}[{', '.join(str(int(i)) for i in index)}]"
            component -= size
        raise IndexError(component)

    def observed_weights(self, observed: Tensor) -> Tensor | None:
        """The samples' weights, (B,), that make up an observed gradient; ``None`` if none do."""
        size = torch.linalg.vector_norm(self.contributions, dim=1, keepdim=True)
        seen = size[:, 0] > 1e-9 * size.max()
        found = torch.zeros(len(size), dtype=torch.float64)
        if bool(observed.isfinite().all()) and bool(seen.any()):
            scaled = (self.contributions / size)[seen]
            found[seen] = torch.linalg.lstsq(scaled.T, observed[:, None]).solution[:, 0] / size[seen, 0]
            left = torch.linalg.vector_norm(observed - found @ self.contributions)
            if float(left) <= 1e3 * self.u * float(found.abs() @ torch.linalg.vector_norm(self.errors, dim=1)):
                return torch.where(seen, found, torch.nan)
        return None


def required(
    declaration: Declaration,
    problem: Problem,
    network: nn.Module,
    dtype: torch.dtype,
    advantage: Tensor | None = None,
) -> Required:
    """Work a problem out on one process, in float64.

    Args:
        declaration: of the trainer.
        problem: the global batch.
        network: the network itself, unwrapped.
        dtype: the precision that is judged.
        advantage: other advantages than the declared ones, (B,), to see what they would give.
    """
    case = problem.case if advantage is None else problem.case.replace(advantage=advantage.to(dtype))
    exact = _Pass(declaration, problem, case, network, dtype)
    loss_error = exact.scale
    if declaration.advantages is not None:
        _, rounding = required_advantages(declaration, problem.layout, problem.reward, problem.group)
        loss_error = loss_error + exact.slope_in_advantage() * rounding.reshape(-1, *(1,) * (loss_error.ndim - 1))
    contributions = exact.contributions()
    terms = problem.layout.total + problem.layout.steps + len(problem.layout.sizes) + 4
    errors = exact.through_absolute(loss_error) + terms * contributions.abs()
    errors += exact.network_rounding(contributions, unit_roundoff(dtype), problem.number)
    reduction = declaration.conventions.batch_reduction
    declared = weights(problem.layout, declaration.mean_over if reduction == "mean" else "sum")
    return Required(problem, contributions, errors, declared, unit_roundoff(dtype), exact.names)


class _Pass:
    r"""A problem in float64: the velocities with their graphs, and the derived gradient there.

    Attributes:
        names: trained parameters with their shapes.
        gradient: g, (B, \*latent), in float64.
        scale: its error scale e, likewise.
    """

    def __init__(
        self,
        declaration: Declaration,
        problem: Problem,
        case: Case,
        network: nn.Module,
        judged: torch.dtype,
    ) -> None:
        self.model = copy.deepcopy(network).to(torch.float64)
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.names = {name: tuple(p.shape) for name, p in trained.items()}
        self.parameters = list(trained.values())
        device = self.parameters[0].device
        offered: Mapping[str, Any] = problem.offered
        self.x_t, self.t = (offered[name].to(device, torch.float64) for name in ("x_t", "t"))
        self.velocities = [self.model(x[None], t[None]) for x, t in zip(self.x_t, self.t, strict=True)]
        v = torch.cat([one.detach() for one in self.velocities]).to("cpu", torch.float64)
        self.conventions = replace(declaration.conventions, batch_reduction="sum", working_dtype=dtype_name(judged))
        self.case = case.replace(v_theta=v)
        found = at_velocity(self.conventions, self.case)
        if bool(found.undecided.any()):
            raise GradcheckError("[gradcheck] a sample lies on a clip's kink; try another --seed")
        self.gradient, self.scale = found.gradient, found.scale

    def slope_in_advantage(self) -> Tensor:
        """|∂g/∂A|: g is linear in A on either side of 0."""
        nudged = self.case.replace(advantage=self.case.advantage * (1 + 2.0**-20))
        step = (self.case.advantage.abs().to(torch.float64) * 2.0**-20).clamp(min=1e-300)
        slope = (at_velocity(self.conventions, nudged).gradient - self.gradient).abs()
        return slope / step.reshape(-1, *(1,) * (slope.ndim - 1))

    def contributions(self) -> Tensor:
        pairs = zip(self.velocities, self.gradient, strict=True)
        return torch.cat([self._pulled(v, g[None, None].to(v), batched=False) for v, g in pairs])

    def network_rounding(self, contributions: Tensor, u: float, seed: int) -> Tensor:
        """d, (B, P), of the contributions."""

        def gradient(v: Tensor) -> Tensor:
            return required_gradient(self.conventions, self.case.replace(v_theta=v))

        return network_rounding(self.model, self.x_t, self.t, gradient, contributions, u, seed)

    def through_absolute(self, scale: Tensor) -> Tensor:
        r"""|J_i|ᵀ e_i, (B, P), with one sample's Jacobian in memory at a time."""
        out = []
        for v, e in zip(self.velocities, scale, strict=True):
            rows = torch.eye(e.numel(), dtype=v.dtype, device=v.device).reshape(e.numel(), *v.shape)
            try:
                jacobian = self._pulled(v, rows, batched=True)
            except RuntimeError:  # an operation whose backward pass cannot be batched
                jacobian = torch.cat([self._pulled(v, row[None], batched=False) for row in rows])
            out.append(e.flatten() @ jacobian.abs())
        return torch.stack(out)

    def _pulled(self, velocity: Tensor, upstream: Tensor, *, batched: bool) -> Tensor:
        """K upstream gradients of one sample, (K, 1, *latent) → (K, P), in float64 on the CPU."""
        gradients = torch.autograd.grad(
            velocity,
            self.parameters,
            upstream if batched else upstream[0],
            retain_graph=True,
            is_grads_batched=batched,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([g.to("cpu", torch.float64).reshape(len(upstream), -1) for g in gradients], dim=1)
