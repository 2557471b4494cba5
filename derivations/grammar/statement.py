"""A text to a statement: the loss and the definitions that it rests on, ready for the calculus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import sympy as sp

from derivations import calculus
from derivations.calculus import MeanAbs, Surrogate, Total, coordinatewise
from derivations.derivation import OUTPUTS, Process, inline
from derivations.grammar.build import Builder
from derivations.grammar.errors import ParseError, Span
from derivations.grammar.kinks import Magnitude, is_kink, lower
from derivations.grammar.limits import DEFINITIONS
from derivations.grammar.names import ALIASES, AMBIGUOUS, BACKWARD, CANONICAL, CONSTANTS, FUNCTIONS, STANDARD
from derivations.grammar.syntax import (
    Call,
    Definition,
    Name,
    Negative,
    Node,
    Number,
    Power,
    Product,
    Program,
    Sum,
    parse,
    parse_definition,
)
from derivations.notation import D, Quantity, log_ratio, quantity, ratio, v_theta

__all__ = ["Statement", "canonical", "meanings", "read", "read_scalar", "uses"]


@dataclass(frozen=True)
class Statement:
    """What a user wrote.

    Attributes:
        source: the text.
        program: its syntax tree, definitions given apart included.
        process: ``"forward"``, or ``"backward"`` where the loss rests on a quantity that only a reverse step has.
        loss: the per-sample loss in the calculus's terms.
        definitions: the notation's symbols that stand for formulas, the user's own and the notation's.
        own: names of those that the user defined.
        given: the user's own quantities.
    """

    source: str
    program: Program
    process: Process
    loss: sp.Expr
    definitions: Mapping[sp.Symbol, sp.Expr]
    own: tuple[str, ...]
    given: Mapping[str, Quantity] = field(default_factory=dict)


def read(source: str, let: Mapping[str, str] | None = None, given: Mapping[str, Quantity] | None = None) -> Statement:
    """Read a loss, with definitions before it (``ratio = …; loss``) or given apart.

    Args:
        source: the text.
        let: definitions, by name.
        given: quantities of the user's own, by name: data that the notation has no name for.

    Raises:
        ParseError: with the offending place.
    """
    program = parse(source)
    apart = tuple(parse_definition(name, text) for name, text in (let or {}).items())
    if len(apart) + len(program.definitions) > DEFINITIONS:
        raise ParseError(f"more than {DEFINITIONS} definitions", program.definitions[-1].span)
    program = Program((*apart, *program.definitions), program.loss)
    return _Reader(source, program, given or {}).statement()


def read_scalar(source: str) -> sp.Expr:
    """Read a number per sample that is no loss: a weight, say.

    Raises:
        ParseError: as :func:`read`; also if it depends on v_theta.
    """
    program = parse(source)
    value = Builder({}).scalar(program.loss, "a weight")
    if value.expr.has(*OUTPUTS) or program.definitions:
        raise ParseError("a weight is one expression, free of what the network puts out", program.loss.span)
    return lower(value.expr, lambda expr: False)


def canonical(name: str) -> str:
    """What a defined name defines: the notation's quantity, or itself where the notation has several or none.

    A user who defines ``r`` means neither of the quantities that are called so, but his own.
    """
    return ALIASES[name] if name in ALIASES and name != "r" else name


@lru_cache(maxsize=2)
def meanings(process: Process) -> Mapping[str, Node]:
    """The syntax trees of what the notation's names stand for in a process."""
    texts = {**STANDARD["both"], **STANDARD[process]}
    return {name: parse(text).loss for name, text in texts.items()}


def uses(node: Node) -> Iterator[str]:
    """The names in a tree, each as often as it stands there."""
    match node:
        case Name():
            yield node.name
        case Negative():
            yield from uses(node.arg)
        case Power():
            yield from uses(node.base)
            yield from uses(node.exponent)
        case Sum() | Product() | Call():
            for arg in node.args:
                yield from uses(arg)
        case Number():
            pass


class _Reader:
    def __init__(self, source: str, program: Program, given: Mapping[str, Quantity]) -> None:
        self.source, self.program, self.given = source, program, given
        self.process = self._process()
        self.builder = Builder({}, given)
        self.definitions: dict[sp.Symbol, sp.Expr] = {}
        self.own: list[str] = []

    def statement(self) -> Statement:
        for name, tree in meanings(self.process).items():
            self._standard(name, tree)
        for definition in self.program.definitions:
            self._define(definition)
        self._no_circle()
        loss = self.builder.build(self.program.loss)
        if loss.kind != "scalar":
            per_coordinate = dict.fromkeys(("product", "coordinates"), "one number per coordinate")
            what = {"vector": "a vector", **per_coordinate}.get(loss.kind, "no number")
            raise ParseError(
                f"the loss is one number per sample, but this is {what}: take norm2, dot, sum or mean of it",
                self.program.loss.span,
            )
        expr = self._lowered(self._absolute(loss.expr))
        expr = self._named_ratio(expr)
        if not self._live(expr):
            raise ParseError(self._why_dead(expr), self.program.loss.span)
        frozen, _ = calculus.freeze(inline(expr, self.definitions))
        if any(node.has(v_theta) for node in frozen.atoms(MeanAbs)):
            raise ParseError(
                "absolute values have a gradient here in the loss itself, not within a definition: write them there",
                self._place("mean_abs", "abs"),
            )
        needed = self._needed(expr)
        kept = {s: e for s, e in self.definitions.items() if s.name in needed}
        own = tuple(n for n in self.own if n in needed)
        return Statement(self.source, self.program, self.process, expr, kept, own, self.given)

    def _process(self) -> Process:
        """Backward, if the loss rests on a quantity that only a reverse step has."""
        own = {canonical(d.name): d.value for d in self.program.definitions}
        known = {**meanings("backward"), **own}
        seen: set[str] = set()
        pending = list(uses(self.program.loss))
        while pending:
            name = pending.pop()
            name = name if name in own or name in self.given else ALIASES.get(name, name)
            if name in seen:
                continue
            seen.add(name)
            if name in BACKWARD and name not in own:
                return "backward"
            if name in known:
                pending.extend(uses(known[name]))
        return "forward"

    def _standard(self, name: str, tree: Node) -> None:
        value = self.builder.build(tree)
        self.definitions[quantity(name).symbol] = value.expr
        self.builder.sizes[name] = value.size, value.terms

    def _define(self, definition: Definition) -> None:
        name = canonical(definition.name)
        if name in FUNCTIONS or name in CONSTANTS:
            raise ParseError(
                f"{name!r} is the name of a {'function' if name in FUNCTIONS else 'number'}", definition.span
            )
        if name in (v_theta.name, D.name):
            raise ParseError(f"{name} cannot be defined: it is what everything else is about", definition.span)
        if definition.name in self.given:
            raise ParseError(f"{definition.name!r} is given, so it cannot be defined too", definition.span)
        if definition.name in self.builder.defined or name in self.own:
            raise ParseError(f"{definition.name!r} is defined twice", definition.span)
        value = self.builder.build(definition.value)
        if name not in CANONICAL or name in AMBIGUOUS:
            self.builder.defined[name] = value
            return
        row = quantity(name)
        wanted = "vector" if row.axes == "latent" else "scalar"
        if value.kind != wanted:
            raise ParseError(
                f"{name} is a {wanted} in this notation, but this is a {value.kind}", definition.value.span
            )
        expr, symbol = self._lowered(value.expr), row.symbol
        if expr.is_number and not bool(row.domain.contains(expr)):
            raise ParseError(f"{name} lies in {_interval(row.domain)}, and this does not", definition.value.span)
        self.own.append(name)
        fits = all(
            getattr(expr, fact) for fact in ("is_integer", "is_positive", "is_nonnegative") if getattr(symbol, fact)
        )
        if not fits:  # the symbol's assumptions would be wrong of it: put the formula in its place everywhere
            self.definitions.pop(symbol, None)
            self.builder.defined[name] = value
            put = {symbol: value.expr}
            self.definitions = {s: e.xreplace(put) for s, e in self.definitions.items()}
            self.builder.defined = {
                n: v if n == name else replace(v, expr=v.expr.xreplace(put), size=v.size + value.size)
                for n, v in self.builder.defined.items()
            }
            return
        self.definitions[symbol] = expr
        self.builder.sizes[name] = value.size, value.terms

    def _no_circle(self) -> None:
        for definition in self.program.definitions:
            name = canonical(definition.name)
            pending, seen = [name], set()
            while pending:
                for symbol in self._formula(pending.pop()).free_symbols:
                    if symbol.name == name:
                        raise ParseError(f"{definition.name!r} is defined by itself", definition.span)
                    if symbol.name not in seen:
                        seen.add(symbol.name)
                        pending.append(symbol.name)

    def _formula(self, name: str) -> sp.Expr:
        if name in self.builder.defined:
            return self.builder.defined[name].expr
        symbol = quantity(name).symbol if name in CANONICAL else None
        return self.definitions.get(symbol, sp.S.Zero)

    def _live(self, expr: sp.Expr) -> bool:
        frozen, _ = calculus.freeze(inline(expr, self.definitions))
        return bool(frozen.has(v_theta))

    def _lowered(self, expr: sp.Expr) -> sp.Expr:
        return lower(expr, self._live)

    def _absolute(self, expr: sp.Expr) -> sp.Expr:
        """Live means of absolute values as sums of the values' own kinks; detached ones keep their name."""
        frozen, thaw = calculus.freeze(expr)
        live = {node for node in frozen.atoms(MeanAbs) if self._live(node)}
        return frozen.xreplace({node: Total(Magnitude(node.args[0])) / D for node in live}).xreplace(thaw)

    def _named_ratio(self, expr: sp.Expr) -> sp.Expr:
        """Name what is clipped ``ratio``, and its logarithm, where the user did not."""
        own = self.definitions.get(ratio)
        if isinstance(own, sp.exp) and own.args[0] != log_ratio and "log_ratio" not in self.own:
            self._name_ratio(own)
        clipped = {node.args[1] for node in expr.atoms(Surrogate) if not is_kink(node)} - {ratio}
        if len(clipped) != 1 or expr.has(ratio) or expr.has(log_ratio) or {"ratio", "log_ratio"} & set(self.own):
            return expr
        (inner,) = clipped
        if (
            not isinstance(inner, sp.exp)
            or coordinatewise(inner)
            or inner.args[0].has(ratio)
            or inner.args[0].has(log_ratio)
        ):
            return expr
        self._name_ratio(inner)
        return expr.xreplace({inner: ratio})

    def _name_ratio(self, formula: sp.Expr) -> None:
        self.definitions[log_ratio], self.definitions[ratio] = formula.args[0], sp.exp(log_ratio)
        self.own += [s.name for s in (log_ratio, ratio) if s.name not in self.own]

    def _needed(self, expr: sp.Expr) -> set[str]:
        seen: set[str] = set()
        pending = set(expr.free_symbols)
        while pending:
            symbol = pending.pop()
            seen.add(symbol.name)
            pending |= {s for s in self.definitions.get(symbol, sp.S.Zero).free_symbols if s.name not in seen}
        return seen

    def _place(self, *functions: str) -> Span:
        """Where a function stands, the loss itself if nowhere."""
        pending: list[Node] = [self.program.loss, *(d.value for d in self.program.definitions)]
        while pending:
            node = pending.pop(0)
            if isinstance(node, Call) and FUNCTIONS.get(node.function) in functions:
                return node.span
            match node:
                case Negative():
                    pending.append(node.arg)
                case Power():
                    pending += [node.base, node.exponent]
                case Sum() | Product() | Call():
                    pending += node.args
        return self.program.loss.span

    def _why_dead(self, expr: sp.Expr) -> str:
        if inline(expr, self.definitions).has(v_theta):
            return "v_theta stands inside sg(…) alone, so the loss has no gradient in it"
        names = set(uses(self.program.loss))
        if "r" in names:
            return "the loss does not depend on v_theta (r is reward_prob here; the importance ratio is ratio)"
        if expr.is_number:
            return f"the loss does not depend on v_theta: everything cancels, and {expr} is left"
        return "the loss does not depend on v_theta"


def _interval(domain: sp.Set) -> str:
    left, right = "(" if domain.left_open else "[", ")" if domain.right_open else "]"
    return f"{left}{domain.inf}, {domain.sup}{right}".replace("oo", "∞").replace("-", "−")
