r"""What a network's own arithmetic may lose: its rounding errors imitated at random, and a bound from their spread.

To first order the rounding error of a result is :math:`E = \sum_k c_k \delta_k`, with one :math:`|\delta_k| \le u` for
every elementary operation.  No processor, number of threads or size of the batch changes the :math:`c_k` much, but each
draws other :math:`\delta_k`; so one evaluation's error says little of the next one's, and may be zero by chance.
Monte Carlo arithmetic (Parker, 1997) draws the :math:`\delta_k` as independent normal numbers of standard deviation u,
by which every operation's result is perturbed, and so finds the standard deviation :math:`u\|c\|_2`.

**Sums.**  An operation that adds up n terms rounds on the way.  In sequence, which is the worst order, errors of
variance u²/3 in the partial sums make up a variance of :math:`u^2 n^2 t^2/6` if the terms ±t have no common sign and
of :math:`u^2 n^3 t^2/9` if they have.  Perturbing the terms by s·u gives n s²u²t², perturbing the sum by s·u gives
n²s²u²t² in the second case: s² = 1 + (n − 1)/6 covers both, and the products' own rounding.  By Cauchy and Schwarz the
same s covers one error that is common to the n outputs, such as that of a softmax's denominator, to within √6.

**The bound.**  From K imitations S_j a correct evaluation's error E is judged by the root of their mean square.  With
normal S_j and an E of no greater standard deviation, E over that root follows, at worst, Student's t with K degrees of
freedom.  The errors allowed are :math:`4 \cdot 4 = 16` roots: P(\|t₁₆\| > 16) = 3e-11 a component.  The true δ_k, of
variance u²/3 at most where they are uniform, leave a factor √3 besides.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gradcheck.rounding.bounds import unit_roundoff

__all__ = ["Imitated", "network_rounding"]

_PASSES = 16
_FACTOR = 4.0  # times the threshold of 4: see above
_AT_ONCE = 2**18  # numbers in all copies of the parameters together: what fits a processor's cache
_ABOVE = 2.0**8  # an imitation's errors over those of the float64 that it is computed in

_MOVES = {
    "_to_copy", "_unsafe_view", "cat", "clone", "constant_pad_nd", "copy_", "embedding", "flip", "gather", "index",
    "index_select", "neg", "new_full", "new_ones", "new_zeros", "ones_like", "repeat", "roll", "select_backward",
    "slice_backward", "stack", "where", "zero_", "zeros_like",
}  # fmt: skip
"""Operations that round nothing.  One that is forgotten here only widens the bound."""


class Imitated(TorchDispatchMode):
    """Within this context every operation's result, forward or backward, is off by random rounding errors.

    Args:
        size: standard deviation of the relative error of float64's operations; ``None``: those of lower precisions
            err instead, each by its own unit roundoff.
        seed: of the errors.

    Attributes:
        lower: whether an operation of lower precision than float64 was met.
    """

    def __init__(self, size: float | None, seed: int) -> None:
        super().__init__()
        self.size, self.lower = size, False
        self._seed, self._generators = seed, dict[torch.device, torch.Generator]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema, kwargs = func._schema, kwargs or {}
        out = func(*args, **kwargs)
        if schema.name.partition("::")[2] in _MOVES or any(
            r.alias_info and not r.alias_info.is_write for r in schema.returns
        ):
            return out
        if schema.is_mutable:  # what was changed in place is what other operations hold
            for x in _tensors(out):
                x.copy_(self._off(x, 1.0))
            return out
        terms = 1.0 if torch.Tag.pointwise in func.tags else _terms(_tensors((args, kwargs)), _tensors(out))
        scale = math.sqrt(1 + (terms - 1) / 6)
        if terms > 1:
            out = func(*tree_map(partial(self._off, scale=scale), args), **kwargs)
        return tree_map(partial(self._off, scale=scale), out)

    def _off(self, x: Any, scale: float) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        size = self.size
        if x.dtype != torch.float64:
            self.lower, size = True, unit_roundoff(x.dtype) if size is None else None
        if size is None:
            return x
        if x.device not in self._generators:
            self._generators[x.device] = torch.Generator(x.device).manual_seed(self._seed)
        noise = torch.randn(x.shape, generator=self._generators[x.device], dtype=torch.float32, device=x.device)
        wide = x.to(torch.float64)
        return torch.addcmul(wide, wide, noise.to(torch.float64), value=size * scale).to(x.dtype)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _terms(given: list[Tensor], out: list[Tensor]) -> float:
    """How many terms a sum in an operation has at most: a matrix's row, or all that one number is made of."""
    rows = max((x.shape[-1] for x in given if x.ndim), default=1)
    most, least = (pick((x.numel() for x in some), default=1) for pick, some in ((max, given), (min, out)))
    return max(rows, most / max(least, 1))


def network_rounding(
    network: nn.Module, x_t: Tensor, t: Tensor, gradient: Callable[[Tensor], Tensor], exact: Tensor, u: float, seed: int
) -> Tensor:
    r"""What the network's rounding may take off each sample's gradient at the parameters, (B, P), in units of u.

    Args:
        network: in float64, whose velocities of samples do not depend on each other.
        x_t, t: its inputs, (B, \*latent) and (B,).
        gradient: of the loss per sample at given velocities, both (B, \*latent), in float64.
        exact: the gradients at the parameters that require one, (B, P), in float64.
        u: unit roundoff of the precision that is judged.
        seed: of the imitated errors.
    """
    size = max(u, _ABOVE * unit_roundoff(torch.float64))
    square, lower = _mean_square(network, x_t, t, gradient, exact, Imitated(size, seed))
    square /= size**2
    if lower:
        square += _mean_square(network, x_t, t, gradient, exact, Imitated(None, seed))[0] / u**2
    return _FACTOR * square.sqrt()


def _mean_square(
    network: nn.Module, x_t: Tensor, t: Tensor, gradient: Callable[[Tensor], Tensor], exact: Tensor, errors: Imitated
) -> tuple[Tensor, bool]:
    """Mean square difference that imitated errors make, (B, P), and whether a lower precision was met."""
    passes = _Passes(network, errors)
    x_t, t = (x.repeat(_PASSES, *(1,) * (x.ndim - 1)) for x in (x_t, t))
    v = passes.velocities(x_t, t)
    g = torch.cat([gradient(one.to("cpu", torch.float64)) for one in v.chunk(_PASSES)])
    square = torch.zeros_like(exact)
    rows = torch.arange(len(exact)).repeat(_PASSES)
    for part, found in passes.gradients(x_t, t, g.to(x_t)):
        square.index_add_(0, rows[part], (found - exact[rows[part]]) ** 2)
    return square / _PASSES, errors.lower


class _Passes:
    """A network's velocities and gradients, row by row, each with errors of its own in all that it computes."""

    def __init__(self, network: nn.Module, errors: Imitated) -> None:
        self.network, self.errors = network, errors
        self.parameters = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
        self.at_once = max(1, _AT_ONCE // sum(p.numel() for p in self.parameters.values()))

    def _velocity(self, parameters: Mapping[str, Tensor], x_t: Tensor, t: Tensor) -> Tensor:
        velocity: Tensor = functional_call(self.network, dict(parameters), (x_t[None], t[None]))[0]
        return velocity

    def _pulled(self, parameters: Mapping[str, Tensor], x_t: Tensor, t: Tensor, g: Tensor) -> Tensor:
        return (self._velocity(parameters, x_t, t) * g).sum()

    def velocities(self, x_t: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([found for _, found in self._by_rows(self._velocity, x_t, t)])

    def gradients(self, x_t: Tensor, t: Tensor, g: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for part, found in self._by_rows(grad(self._pulled), x_t, t, g):
            yield part, torch.cat([x.to("cpu", torch.float64).flatten(1) for x in found.values()], dim=1)

    def _by_rows(self, function: Callable[..., Any], *given: Tensor) -> Iterator[tuple[slice, Any]]:
        """The function on some rows at once, each with its own copy of the parameters; one by one if it has to be."""
        for start in range(0, len(given[0]), self.at_once):
            part = slice(start, min(start + self.at_once, len(given[0])))
            copies = {n: p.expand(part.stop - part.start, *p.shape) for n, p in self.parameters.items()}
            arguments = [x[part] for x in given]
            with self.errors, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # vmap's, about operations that it loops over
                try:
                    found = vmap(function)(copies, *arguments)
                except RuntimeError:
                    rows = [function(self.parameters, *(x[i] for x in arguments)) for i in range(len(arguments[0]))]
                    found = tree_map(lambda *x: torch.stack(x), *rows)
            yield part, found
