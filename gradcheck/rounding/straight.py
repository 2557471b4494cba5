r"""Straight-line programs: what a function computes on numbers, recorded once and replayed in NumPy.

The rules of :mod:`gradcheck.rounding.bounds` walk an expression tree and call torch for every node; on a handful of
numbers per sample that costs far more than the arithmetic.  Handed :class:`Traced` values in place of tensors, they
leave a :class:`Program` behind: one line for each operation, each different one once, constants folded, nothing
unused.

On a handful of numbers an operation costs its call, and with a Python number beside the array three times that, since
NumPy converts it each time.  So constants are arrays without axes that are made once, and what is known by another name
is not computed again: a sum or product in the other order, the magnitude of a product of known magnitudes.  All of this
is exact: IEEE's operations round the same number to the same number, whatever its sign.
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
    "negative": np.negative,
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
_COMMUTES = ("+", "*", "==", "&", "|")
_IN_NAMES = str.maketrans({"-": "m", "+": "p", ".": "_"})
"""A constant's name is made of its digits: ``c0_5``, ``cm1_0``, ``c1em05``."""

_OF_ONE: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "maximum": lambda a, b: np.float64(a if a >= b or a != a else b),
    "minimum": lambda a, b: np.float64(a if a <= b or a != a else b),
    "negative": lambda a: -a,
    "where": lambda condition, a, b: np.float64(a if condition else b),
}
"""The same for one number instead of an array, where they are faster.  What may be a constant becomes a NumPy float,
whose division by zero is infinite."""


class Traced:
    """A number for each sample, (B,), or one for all, that is known when the program runs; or a constant.

    Attributes:
        text: its name in the program, the constant's too.
        constant: the number, if it is known now.
        nonnegative: whether it is known not to be below 0, so that its magnitude is itself.
        made: the operator and the two values, or ``"negative"`` and the value, that it was made of.
    """

    def __init__(
        self,
        program: Program,
        text: str,
        constant: float | bool | None = None,
        nonnegative: bool = False,
        made: tuple[Any, ...] = (),
    ) -> None:
        self.program, self.text, self.constant, self.made = program, text, constant, made
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
        return self.program.magnitude(self)

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
        return self.program.call("negative", self)

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
    magnitudes: dict[str, Traced] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    count: int = 0

    def input(self, name: str) -> Traced:
        """A number that is given when the program runs."""
        self.inputs.append(name)
        return Traced(self, name)

    def constant(self, x: float | bool) -> Traced:
        if isinstance(x, bool):
            return Traced(self, repr(x), x)
        name = f"c{float(x)!r}".translate(_IN_NAMES)
        self.constants[name] = float(x)
        return Traced(self, name, float(x))

    def call(self, name: str, *args: Any) -> Traced:
        """What a NumPy function makes of arguments."""
        values = [self._traced(x) for x in args]
        if name == "where" and values[0].constant is not None:
            return values[1] if values[0].constant else values[2]
        if name == "add":
            return self.infix("+", *values)
        if name == "abs":
            return self.magnitude(values[0])
        if name == "negative" and values[0].made[:1] == ("negative",):
            inner: Traced = values[0].made[1]
            return inner
        nonnegative = name == "exp" or (
            name in ("where", "maximum", "minimum") and all(x.nonnegative for x in values[-2:])
        )
        text = f"{name}({', '.join(x.text for x in values)})"
        return self._operation(_FUNCTIONS[name], text, values, nonnegative, (name, *values))

    def infix(self, operator: str, *args: Any) -> Traced:
        a, b = (self._traced(x) for x in args)
        short = _shortened(operator, a, b)
        if short is not None:
            return short
        square = operator == "**" and b.constant is not None and float(b.constant) % 2 == 0
        if square:
            a = self._magnitude_if_known(a) or a
        kept = a.nonnegative and (operator == "**" or (operator in ("+", "*", "/") and b.nonnegative))
        text = self._infix_text(operator, a, b)
        return self._operation(_INFIX[operator], text, [a, b], square or kept, (operator, a, b))

    def magnitude(self, x: Traced) -> Traced:
        r"""\|x\|; that of a product or quotient is the product or quotient of the magnitudes, to the last digit."""
        found = self._magnitude_if_known(x)
        if found is None:
            found = self._operation(np.abs, f"abs({x.text})", [x], True, ("abs", x))
            self.magnitudes[x.text] = found
        return found

    def _magnitude_if_known(self, x: Traced) -> Traced | None:
        if x.nonnegative:
            return x
        if x.constant is not None:
            return self.constant(abs(x.constant))
        kind, *parts = x.made or ("",)
        if kind == "negative":
            return self._magnitude_if_known(parts[0])
        if x.text not in self.magnitudes and kind in ("*", "/"):
            a, b = (self._magnitude_if_known(part) for part in parts)
            if a is not None and b is not None:
                same = _shortened(kind, a, b) or self.known.get(self._infix_text(kind, a, b))
                if same is not None:
                    self.magnitudes[x.text] = same
        return self.magnitudes.get(x.text)

    def _infix_text(self, operator: str, a: Traced, b: Traced) -> str:
        if operator in _COMMUTES and b.text < a.text:
            a, b = b, a
        # NumPy knows roots, squares and inverses by the Python number, and takes a tenth of a power's time for them
        right = f"({b.constant!r})" if operator == "**" and b.constant is not None else b.text
        return f"{a.text} {operator} {right}"

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
        of_arrays: dict[str, Any] = {**_FUNCTIONS, **{name: np.array(x) for name, x in self.constants.items()}}
        of_one: dict[str, Any] = {**_FUNCTIONS, **_OF_ONE, **self.constants}
        exec(code, of_arrays)
        exec(code, of_one)
        return Compiled(of_arrays["program"], of_one["program"], source)

    def _traced(self, x: Any) -> Traced:
        return x if isinstance(x, Traced) else self.constant(x)

    def _name(self) -> str:
        self.count += 1
        return f"_{self.count}"

    def _operation(
        self,
        function: Callable[..., Any],
        text: str,
        values: list[Traced],
        nonnegative: bool,
        made: tuple[Any, ...],
    ) -> Traced:
        if all(x.constant is not None for x in values):
            with np.errstate(all="ignore"):
                return self.constant(function(*(x.constant for x in values)).item())
        if text not in self.known:
            name = self._name()
            self.lines.append(((name,), text, tuple(x.text for x in values)))
            self.known[text] = Traced(self, name, nonnegative=nonnegative, made=made)
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
                ones = [name for name, x in given.items() if not isinstance(x, np.ndarray)]
                arrays = {**given, **dict(zip(ones, rows_of([given[name] for name in ones], batch), strict=True))}
                return rows_of(self.of_arrays(arrays, external), batch)
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
    if operator == "*" and -1.0 in (a.constant, b.constant):
        return -(b if a.constant == -1.0 else a)
    if a.constant == 1.0 and operator == "*":
        return b
    if b.constant == 1.0 and operator in ("*", "/", "**"):
        return a
    return None
