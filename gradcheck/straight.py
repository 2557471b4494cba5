r"""Straight-line programs: what a function computes on numbers, recorded once and replayed in NumPy.

The rules of :mod:`gradcheck.bounds` walk an expression tree and call torch for every node; on a handful of numbers per
sample that costs far more than the arithmetic.  Handed :class:`Traced` values in place of tensors, they leave a
:class:`Program` behind: one line for each operation, each different one once, constants folded, nothing unused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Compiled", "Program", "Traced", "rows_of"]

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "add": np.add,
    "cos": np.cos,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "sign": np.sign,
    "sin": np.sin,
    "where": np.where,
}
_INFIX: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "**": np.power,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "&": np.logical_and,
    "|": np.logical_or,
}
_BOOLEAN = ("<", "<=", ">", ">=", "==", "&", "|")


_OF_ONE: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "add": lambda a, b: a + b,
    "maximum": lambda a, b: np.float64(a if a >= b or a != a else b),
    "minimum": lambda a, b: np.float64(a if a <= b or a != a else b),
    "where": lambda condition, a, b: np.float64(a if condition else b),
}
"""The same for one number instead of an array, where they are faster.  What may be a constant becomes a NumPy float,
whose division by zero is infinite."""


class Traced:
    """A number for each sample, (B,), or one for all, that is known when the program runs; or a constant.

    Attributes:
        text: its name in the program, or the constant.
        constant: the number, if it is known now.
        nonnegative: whether it is known not to be below 0, so that its magnitude is itself.
    """

    def __init__(
        self, program: Program, text: str, constant: float | bool | None = None, nonnegative: bool = False
    ) -> None:
        self.program, self.text, self.constant = program, text, constant
        self.nonnegative = nonnegative or (constant is not None and constant >= 0)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Traced:
        program = next(x.program for x in args if isinstance(x, Traced))
        if func.__name__ == "zeros_like":  # of whatever dtype: a program's numbers are float64
            return program.constant(0.0)
        if kwargs or func.__name__ not in _FUNCTIONS:
            raise NotImplementedError(f"torch.{func.__name__} with {kwargs} has no counterpart in a program")
        return program.call(func.__name__, *args)

    def abs(self) -> Traced:
        return self if self.nonnegative else self.program.call("abs", self)

    def log(self) -> Traced:
        return self.program.call("log", self)

    def sign(self) -> Traced:
        return self.program.call("sign", self)

    def clamp(self, min: float | None = None, max: float | None = None) -> Traced:
        low = self if min is None else self.program.call("maximum", self, min)
        return low if max is None else self.program.call("minimum", low, max)

    def detach(self) -> Traced:
        return self

    def to(self, like: Traced) -> Traced:
        """A truth value as 0 or 1."""
        return self.program.call("where", self, 1.0, 0.0)

    def __invert__(self) -> Traced:
        return self.program.infix("==", self, False)

    def __neg__(self) -> Traced:
        return self.program.infix("*", -1.0, self)

    def __add__(self, other: Any) -> Traced:
        return self.program.infix("+", self, other)

    def __radd__(self, other: Any) -> Traced:
        return self.program.infix("+", other, self)

    def __sub__(self, other: Any) -> Traced:
        return self.program.infix("-", self, other)

    def __rsub__(self, other: Any) -> Traced:
        return self.program.infix("-", other, self)

    def __mul__(self, other: Any) -> Traced:
        return self.program.infix("*", self, other)

    def __rmul__(self, other: Any) -> Traced:
        return self.program.infix("*", other, self)

    def __truediv__(self, other: Any) -> Traced:
        return self.program.infix("/", self, other)

    def __rtruediv__(self, other: Any) -> Traced:
        return self.program.infix("/", other, self)

    def __pow__(self, other: Any) -> Traced:
        return self.program.infix("**", self, other)

    def __rpow__(self, other: Any) -> Traced:
        return self.program.infix("**", other, self)

    def __lt__(self, other: Any) -> Traced:
        return self.program.infix("<", self, other)

    def __le__(self, other: Any) -> Traced:
        return self.program.infix("<=", self, other)

    def __gt__(self, other: Any) -> Traced:
        return self.program.infix(">", self, other)

    def __ge__(self, other: Any) -> Traced:
        return self.program.infix(">=", self, other)

    def __eq__(self, other: object) -> Traced:  # type: ignore[override]
        return self.program.infix("==", self, other)

    __hash__ = object.__hash__

    def __and__(self, other: Any) -> Traced:
        return self.program.infix("&", self, other)

    def __or__(self, other: Any) -> Traced:
        return self.program.infix("|", self, other)


@dataclass
class Program:
    """The lines, in order; each binds names to what a text computes from names that are bound before."""

    lines: list[tuple[tuple[str, ...], str, tuple[str, ...]]] = field(
        default_factory=list
    )  # names, text, what it needs
    known: dict[str, Traced] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    count: int = 0

    def input(self, name: str) -> Traced:
        """A number that is given when the program runs."""
        self.inputs.append(name)
        return Traced(self, name)

    def constant(self, x: float | bool) -> Traced:
        x = x if isinstance(x, bool) else float(x)
        return Traced(self, repr(x) if isinstance(x, bool) or x >= 0 else f"({x!r})", x)

    def call(self, name: str, *args: Any) -> Traced:
        """What a NumPy function makes of arguments."""
        values = [self._traced(x) for x in args]
        if name == "where" and values[0].constant is not None:
            return values[1] if values[0].constant else values[2]
        nonnegative = name in ("abs", "exp") or (
            name in ("where", "maximum", "minimum", "add") and all(x.nonnegative for x in values[-2:])
        )
        text = f"{name}({', '.join(x.text for x in values)})"
        return self._operation(_FUNCTIONS[name], text, values, nonnegative)

    def infix(self, operator: str, *args: Any) -> Traced:
        a, b = (self._traced(x) for x in args)
        short = _shortened(operator, a, b)
        if short is not None:
            return short
        square = operator == "**" and b.constant is not None and float(b.constant) % 2 == 0
        kept = a.nonnegative and (operator == "**" or (operator in ("+", "*", "/") and b.nonnegative))
        return self._operation(_INFIX[operator], f"{a.text} {operator} {b.text}", [a, b], square or kept)

    def external(self, function: str, args: Iterable[Iterable[Any]], results: int, *first: int) -> list[Traced]:
        """Several results of one call to a function that is given when the program runs."""
        groups = [[self._traced(x) for x in group] for group in args]
        shown = [str(x) for x in first] + [f"[{', '.join(x.text for x in group)}]" for group in groups]
        names = tuple(self._name() for _ in range(results))
        needs = tuple(x.text for group in groups for x in group)
        self.lines.append((names, f"{function}({', '.join(shown)})", needs))
        return [Traced(self, name) for name in names]

    def compiled(self, external: str, results: Sequence[Traced]) -> Compiled:
        """The function of the inputs that computes the results, and nothing else."""
        wanted, kept = {x.text for x in results}, []
        for names, text, needs in reversed(self.lines):
            if wanted & set(names):
                wanted |= set(needs)
                kept.append(f"    {', '.join(names)} = {text}")
        unpacked = [f"    {name} = given[{name!r}]" for name in self.inputs if name in wanted]
        made = f"    return [{', '.join(x.text for x in results)}]\n"
        source = "\n".join([f"def program(given, {external}):", *unpacked, *reversed(kept), made])
        code = compile(source, "<straight-line program>", "exec")
        of_arrays: dict[str, Any] = {**_FUNCTIONS, "inf": np.inf, "nan": np.nan}
        of_one = of_arrays | _OF_ONE
        exec(code, of_arrays)
        exec(code, of_one)
        return Compiled(of_arrays["program"], of_one["program"], source)

    def _traced(self, x: Any) -> Traced:
        return x if isinstance(x, Traced) else self.constant(x)

    def _name(self) -> str:
        self.count += 1
        return f"_{self.count}"

    def _operation(self, function: Callable[..., Any], text: str, values: list[Traced], nonnegative: bool) -> Traced:
        if all(x.constant is not None for x in values):
            with np.errstate(all="ignore"):
                return self.constant(function(*(x.constant for x in values)).item())
        if text not in self.known:
            name = self._name()
            self.lines.append(((name,), text, tuple(x.text for x in values)))
            self.known[text] = Traced(self, name, nonnegative=nonnegative)
        return self.known[text]


@dataclass(frozen=True)
class Compiled:
    """A program that runs: on arrays, and on single numbers, which is several times as fast.

    Attributes:
        of_arrays, of_one: functions of a mapping of inputs and of the external function.
        source: of both.
    """

    of_arrays: Callable[..., list[Any]]
    of_one: Callable[..., list[Any]]
    source: str

    def __call__(
        self, given: Mapping[str, Any], external: Callable[[int, list[Any]], list[Any]], batch: int
    ) -> np.ndarray[Any, Any]:
        """The results, (results, B).

        Args:
            given: the inputs: arrays (B,) and NumPy's floats.
            external: from what the program hands over, arrays (B,) again.
            batch: B.
        """
        with np.errstate(all="ignore"):
            if batch != 1:
                return rows_of(self.of_arrays(given, external), batch)
            single = {name: x[0] if isinstance(x, np.ndarray) else x for name, x in given.items()}
            return rows_of(self.of_one(single, lambda *args: [x[0] for x in external(*args)]), batch)


def rows_of(numbers: Sequence[Any], batch: int) -> np.ndarray[Any, Any]:
    """Arrays (B,) and numbers, one below the other, (numbers, B), in float64."""
    out = np.empty((len(numbers), batch))
    for i, x in enumerate(numbers):
        out[i] = x
    return out


def _shortened(operator: str, a: Traced, b: Traced) -> Traced | None:
    """Operations with 0 and 1 that need none.  0 · x is 0 even if x is infinite, whose own bound is infinite too."""
    if operator == "|" and isinstance(a.constant, bool):
        return a if a.constant else b
    if operator in _BOOLEAN:
        return None
    if a.constant == 0.0:
        if operator == "+":
            return b
        if operator in ("*", "/"):
            return a
    if b.constant == 0.0:
        if operator in ("+", "-"):
            return a
        if operator == "*":
            return b
    if a.constant == 1.0 and operator == "*":
        return b
    if b.constant == 1.0 and operator in ("*", "/", "**"):
        return a
    return None
