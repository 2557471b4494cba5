"""What other gradient checkers cost and see, beside this one, in one run: ``python -m benchmarks.peers``.

All look at the same losses in float64, on the same problems: a batch of two samples of D coordinates, inside the
clip, amid the time axis.  A checker is *sharp* as far as it refuses a backward pass that is off by a factor 1 + e in a
sample; the smallest such e is found by bisection.  Each is asked besides about the loss with the opposite sign, whose
backward pass is that of its forward pass: only one that knows what the gradient must be can refuse it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import Entry, entry
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import gradient_of
from gradcheck.rounding.streaming import compare_gradient

from . import text

LOSSES = (("flow_grpo", "mean"), ("awm", "mean"))
SIZES = (16, 256, 4096)
BATCH = 2
WRONG_SAMPLE = 1
STEP, RTOL, ATOL = 1e-6, 1e-5, 1e-8
"""Of differences by hand: the usual step in float64, and the tolerances of ``allclose``."""
FINEST, COARSEST, WITHIN = -17.0, 2.0, 0.25
"""Decimal exponents between which e is sought, and how closely."""

LONG = 0.3
"""Seconds for which runs are timed."""

Accepts = Callable[[float, float], bool]
"""Whether a checker accepts a loss with a sign in front, whose backward pass is off by a factor in one sample."""


@dataclass(frozen=True)
class Problem:
    """A loss on one batch, as a function of the network's output alone.

    Attributes:
        one: the loss.
        case: the batch, float64.
    """

    one: Entry
    case: Case

    @property
    def v(self) -> Tensor:
        return self.case.output.detach()

    def loss(self, v: Tensor) -> Tensor:
        """Summed over the batch."""
        return self.one.loss(self.case.replace(v_theta=v)).sum()


class _Scaled(torch.autograd.Function):
    """The identity, whose backward pass is off by a factor in one sample."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return _spoilt(gradient, ctx.factor), None


def _spoilt(gradient: Tensor, factor: float) -> Tensor:
    return torch.cat([gradient[:WRONG_SAMPLE], factor * gradient[[WRONG_SAMPLE]], gradient[WRONG_SAMPLE + 1 :]])


def _gradient(problem: Problem, factor: float, sign: float) -> Tensor:
    v = problem.v.requires_grad_()
    return gradient_of(sign * problem.loss(_Scaled.apply(v, factor)), v)


def ours(problem: Problem) -> Accepts:
    def accepts(factor: float, sign: float) -> bool:
        return compare_gradient(problem.one.derivation, problem.case, _gradient(problem, factor, sign)).holds

    return accepts


def torchs(problem: Problem, fast: bool) -> Accepts:
    def accepts(factor: float, sign: float) -> bool:
        v = problem.v.requires_grad_()
        return torch.autograd.gradcheck(
            lambda x: sign * problem.loss(_Scaled.apply(x, factor)), v, raise_exception=False, fast_mode=fast
        )

    return accepts


def by_differences(problem: Problem) -> Accepts:
    """Central differences in every coordinate, written by hand."""

    def accepts(factor: float, sign: float) -> bool:
        found, v = _gradient(problem, factor, sign), problem.v.clone()
        numeric = torch.empty_like(v)
        place, into = v.view(-1), numeric.view(-1)
        with torch.no_grad():
            for i in range(v.numel()):
                here = float(place[i])
                place[i] = here + STEP
                up = problem.loss(v)
                place[i] = here - STEP
                into[i] = sign * (up - problem.loss(v)) / (2 * STEP)
                place[i] = here
        return torch.allclose(found, numeric, RTOL, ATOL)

    return accepts


def jaxs(problem: Problem) -> Accepts:
    """``jax.test_util.check_grads`` in reverse mode, of the same loss written in JAX and compiled."""
    import jax
    from jax.test_util import check_grads

    jax.config.update("jax_enable_x64", True)
    loss = _in_jax(problem)
    v = jax.numpy.asarray(problem.v.numpy())
    expected = float(problem.loss(problem.v))
    assert math.isclose(float(loss(v)), expected, rel_tol=1e-9), "the same loss in both frameworks"

    @jax.custom_vjp
    def scaled(x: Any, factor: Any) -> Any:
        return x

    scaled.defvjp(
        lambda x, factor: (x, factor),
        lambda factor, g: (g.at[WRONG_SAMPLE].multiply(factor), None),
    )
    compiled = jax.jit(lambda x, factor, sign: sign * loss(scaled(x, factor)))

    def accepts(factor: float, sign: float) -> bool:
        try:
            check_grads(lambda x: compiled(x, factor, sign), (v,), order=1, modes=("rev",))
        except AssertionError:
            return False
        return True

    return accepts


def _in_jax(problem: Problem) -> Callable[[Any], Any]:
    import jax.numpy as jnp

    names = [n for n in problem.case.names if isinstance(getattr(problem.case, n), Tensor)]
    q = {n: jnp.asarray(getattr(problem.case, n).detach().numpy()) for n in names}

    def awm(v: Any) -> Any:
        return (q["advantage"] * ((v - q["noise"] + q["x_0"]) ** 2).mean(1)).sum()

    def flow_grpo(v: Any) -> Any:
        t, dt = q["t"][:, None], q["dt"][:, None]
        sigma = problem.case.noise_level * jnp.sqrt(t / (1 - t))

        def error(u: Any) -> Any:
            mean = q["x_t"] * (1 - sigma**2 / (2 * t) * dt) - u * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
            return ((q["x_prev"] - mean) ** 2 / (2 * sigma**2 * dt)).mean(1)

        ratio = jnp.exp(error(q["v_old"]) - error(v))
        clipped = jnp.clip(ratio, 1 - problem.case.clip_low, 1 + problem.case.clip_high)
        return -jnp.minimum(ratio * q["advantage"], clipped * q["advantage"]).sum()

    return {"awm": awm, "flow_grpo": flow_grpo}[problem.one.algorithm.name]


PEERS: dict[str, Callable[[Problem], Accepts]] = {
    "gradcheck": ours,
    "`torch.autograd.gradcheck`, slow": lambda problem: torchs(problem, fast=False),
    "`torch.autograd.gradcheck`, fast": lambda problem: torchs(problem, fast=True),
    "`jax.test_util.check_grads`": jaxs,
    "central differences by hand": by_differences,
}


def sharpness(accepts: Accepts) -> float | None:
    """The smallest e of which 1 + e is refused; infinite if none is, ``None`` where 1 itself is."""
    if not accepts(1.0, 1.0):
        return None
    accepted, refused = FINEST, COARSEST
    if accepts(1 + 10**refused, 1.0):
        return math.inf
    while refused - accepted > WITHIN:
        middle = (accepted + refused) / 2
        if accepts(1 + 10**middle, 1.0):
            accepted = middle
        else:
            refused = middle
    return float(10**refused)


def problems(sizes: tuple[int, ...] = SIZES) -> Iterator[Problem]:
    for name, variant in LOSSES:
        one = entry(name, variant)
        policy = "inside" if "clip_low" in one.derivation.given else "off"
        for size in sizes:
            spec = Spec(BATCH, (size,), 1, policy, "typical", "middle")
            yield Problem(one, build(one.derivation, spec, torch.float64))


def cost(problem: Problem, accepts: Accepts) -> float:
    """What a check takes, in units of the loss's forward and backward pass, both in processor time."""
    return _processor(lambda: accepts(1.0, 1.0)) / _processor(lambda: _gradient(problem, 1.0, 1.0))


def _processor(run: Callable[[], object]) -> float:
    """The shortest of several runs, but for the first, in which something may be compiled; of long ones the second."""
    run()
    times: list[float] = []
    while sum(times) < LONG:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def row(problem: Problem, name: str) -> tuple[str, ...]:
    accepts = PEERS[name](problem)
    taken = cost(problem, accepts)
    found = sharpness(accepts)
    words = "the right one is" if found is None else "not even 100" if math.isinf(found) else power(found)
    opposite = "accepts" if accepts(1.0, -1.0) else "refuses"
    return (
        problem.one.label,
        f"{math.prod(problem.v.shape[1:]):,}",
        name,
        f"{float(f'{taken:.2g}'):,.0f}",
        words,
        opposite,
    )


def power(number: float) -> str:
    """One digit and a power of ten: 3·10⁻¹²."""
    exponent = math.floor(math.log10(number))
    digit = round(number / 10.0**exponent)
    digit, exponent = (1, exponent + 1) if digit == 10 else (digit, exponent)
    if exponent == 0:
        return str(digit)
    raised = f"10{str(exponent).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return raised if digit == 1 else f"{digit}·{raised}"


HEADER = (
    "loss",
    "D",
    "checker",
    "processor time / (forward + backward)",
    "smallest error refused",
    "the opposite loss",
)


def peers_table(sizes: tuple[int, ...] = SIZES) -> str:
    """Cost and sharpness of each, at each size."""
    return text.table(HEADER, [row(problem, name) for problem in problems(sizes) for name in PEERS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    torch.set_num_threads(1)
    print(peers_table(tuple(parser.parse_args().sizes)))


if __name__ == "__main__":
    main()
