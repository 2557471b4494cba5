r"""A syntax tree evaluated in torch, as a trainer would write it: nothing symbolic in between.

This is the second route to the gradient: the text's own minimum, clamp and mean, differentiated by autograd.  Latents
have shape (B, \*latent), per-sample scalars (B, 1, …, 1), numbers ().
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from derivations.derivation import PREDICTIONS
from derivations.grammar.names import CONSTANTS, FUNCTIONS, resolve
from derivations.grammar.statement import Statement, canonical, meanings
from derivations.grammar.syntax import Call, Name, Negative, Node, Number, Power, Product, Sum
from gradcheck.case import Case

__all__ = ["Evaluator", "loss_of"]


def loss_of(statement: Statement, formulas: Mapping[str, Callable[[Evaluator], Tensor]], case: Case) -> Tensor:
    """The loss of a statement on a case, per sample, shape (B,), differentiable in ``case.v_theta``.

    Args:
        formulas: values of quantities that have neither the user's nor the notation's definition.
    """
    run = Evaluator(statement, case.broadcast(), formulas)
    value = run(statement.program.loss)
    return value.expand(case.v_theta.shape[0], *(1,) * (case.v_theta.ndim - 1)).flatten(1).sum(1)


class Evaluator:
    """Evaluates trees on tensors that broadcast with one another; every name once."""

    def __init__(
        self,
        statement: Statement,
        values: Mapping[str, Tensor],
        formulas: Mapping[str, Callable[[Evaluator], Tensor]],
    ) -> None:
        self.values, self.formulas, self.given = values, formulas, statement.given
        self.own = {canonical(d.name): d.value for d in statement.program.definitions}
        self.meanings = {**meanings(statement.process), **self.own}
        # what the network puts out, where that is no velocity
        self.known = {s.name: values[s.name] for s in PREDICTIONS if s.name in values and s.name in self.meanings}
        self.bound = ""
        self.v = values["v_theta"]

    def __call__(self, node: Node) -> Tensor:
        match node:
            case Number():
                return self.number(float(node.value))
            case Name():
                return self.name(node)
            case Negative():
                return -self(node.arg)
            case Sum():
                out = self(node.args[0])
                for sign, arg in zip(node.signs[1:], node.args[1:], strict=True):
                    out = out + self(arg) if sign == "+" else out - self(arg)
                return out
            case Product():
                out = self(node.args[0])
                for sign, arg in zip(node.signs[1:], node.args[1:], strict=True):
                    out = out * self(arg) if sign == "*" else out / self(arg)
                return out
            case Power():
                return self(node.base) ** float(self(node.exponent))
            case Call():
                return self.call(node)

    def number(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self.v.dtype, device=self.v.device)

    def name(self, node: Name) -> Tensor:
        if node.name in self.own:
            return self.quantity(node.name)
        if node.name in self.given:
            return self.values[node.name]
        if node.name in CONSTANTS:
            return self.number(math.pi)
        return self.quantity(resolve(node.name, node.span, bound=self.bound))

    def quantity(self, name: str) -> Tensor:
        """A quantity by its definition, by its formula, or as the case gives it."""
        if name in self.known:
            return self.known[name]
        bound, self.bound = self.bound, ""
        if name in self.meanings:
            value = self(self.meanings[name])
        elif name in self.formulas:
            value = self.formulas[name](self)
        else:
            value = self.values[name]
        self.bound = bound
        self.known[name] = value
        return value

    def call(self, node: Call) -> Tensor:
        function = FUNCTIONS[node.function]
        if function == "clip":
            x = self(node.args[0])
            low, high = self.within("clip_low", node.args[1]), self.within("clip_high", node.args[2])
            return torch.clamp(x, low, high)
        args = [self(arg) for arg in node.args]
        if function in ("min", "max"):
            out = args[0]
            for arg in args[1:]:
                out = (torch.minimum if function == "min" else torch.maximum)(out, arg)
            return out
        return _FUNCTIONS[function](*args)

    def within(self, bound: str, node: Node) -> Tensor:
        before, self.bound = self.bound, bound
        value = self(node)
        self.bound = before
        return value


def _over(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A reduction over the coordinates of each sample."""

    def run(x: Tensor) -> Tensor:
        return reduce(x, tuple(range(1, x.ndim)), keepdim=True)

    return run


_sum, _mean = _over(torch.sum), _over(torch.mean)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "norm2": lambda v: _sum(v**2),
    "dot": lambda a, b: _sum(a * b),
    "mse": lambda a, b: _mean((a - b) ** 2),
    "mean": _mean,
    "sum": _sum,
    "mean_abs": lambda v: _mean(v.abs()),
    "sg": lambda x: x.detach(),
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    # torch's own sigmoid and tanh lose more digits where they saturate than the bounds of the grammar's formulas allow
    # and those formulas overflow on the way to their gradients: e^(log σ) does neither
    "tanh": lambda x: 2 * torch.exp(torch.nn.functional.logsigmoid(2 * x)) - 1,
    "sigmoid": lambda x: torch.exp(torch.nn.functional.logsigmoid(x)),
    "softplus": lambda x: -torch.nn.functional.logsigmoid(-x),  # torch's softplus leaves e⁻ˣ out beyond 20
    "logsigmoid": torch.nn.functional.logsigmoid,
    "abs": torch.abs,
    "relu": torch.relu,
    "unless": lambda *conditions: (~torch.stack([c > 0 for c in torch.broadcast_tensors(*conditions)]).all(0)).double(),
    "sign": torch.sign,
    "huber": lambda x, delta: torch.where(x.abs() <= delta, x**2 / 2, delta * (x.abs() - delta / 2)),
    "smooth_l1": lambda x, beta: torch.where(x.abs() <= beta, x**2 / (2 * beta), x.abs() - beta / 2),
    "log_cosh": lambda x: torch.logaddexp(x, -x) - math.log(2),
}
