r"""Scalars and vectors over a symbolic dimension D, and the gradient of one with respect to the other.

A vector is an ordinary SymPy linear combination of :class:`VectorSymbol`; a scalar meets vectors only
inside :class:`Dot`, :class:`Norm2` and :class:`MeanAbs`.  Inner products are bilinear, symmetric and
otherwise opaque, so whatever is proved here holds in every inner-product space: for every D at once.

Two ways lead to a gradient.  :func:`gradient` applies the chain rule and keeps the expression's form.
:func:`gradient_residual` checks a *claimed* gradient against the definition
:math:`\frac{d}{ds} f(v + s h)\big|_{s=0} = \langle \nabla f, h\rangle` for an arbitrary direction h; it
shares nothing with the first but the bilinear expansion, and it is what proofs use.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.core.function import ArgumentIndexError
from sympy.polys.fields import field

__all__ = [
    "CalculusError",
    "ClipMask",
    "Dot",
    "MeanAbs",
    "Norm2",
    "OtherMask",
    "Surrogate",
    "VectorSymbol",
    "components",
    "drop_sg",
    "expand",
    "fresh_vector",
    "gradient",
    "gradient_residual",
    "hessian_product",
    "is_zero",
    "kind",
    "residual",
    "sg",
]


class CalculusError(ValueError):
    """An expression is neither a scalar nor a vector, or cannot be differentiated here."""


class VectorSymbol(sp.Symbol):
    """A vector of D real coordinates.

    It is a commutative symbol, so that sums and scalar multiples are ordinary SymPy; :func:`kind`
    refuses what is not linear in such symbols (a product of two vectors, the exponential of one).
    """

    def __new__(cls, name: str) -> VectorSymbol:
        return super().__new__(cls, name, real=True)


class Dot(sp.Function):
    r"""Inner product :math:`\langle a, b\rangle` over the latent coordinates of one sample."""

    nargs = 2

    @classmethod
    def eval(cls, a: sp.Expr, b: sp.Expr) -> sp.Expr | None:
        if a == 0 or b == 0:
            return sp.S.Zero
        if a == b:
            return Norm2(a)
        first, second = sorted((a, b), key=sp.default_sort_key)
        return None if (first, second) == (a, b) else cls(first, second)

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        a, b = (printer._print(x) for x in self.args)
        body = rf"\langle {a},\, {b} \rangle"
        return body if exp is None else rf"{body}^{{{exp}}}"


class Norm2(sp.Function):
    r"""Squared norm :math:`\|a\|^2`, the sum over the latent coordinates of one sample."""

    nargs = 1

    @classmethod
    def eval(cls, a: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if a == 0 else None

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"\left\Vert {printer._print(self.args[0])} \right\Vert^{{2}}"
        return body if exp is None else rf"\left({body}\right)^{{{exp}}}"


class MeanAbs(sp.Function):
    r"""Mean absolute coordinate :math:`\overline{|a|}`; it has no gradient here, so it lives inside ``sg``."""

    nargs = 1

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"\overline{{\left| {printer._print(self.args[0])} \right|}}"
        return body if exp is None else rf"{body}^{{{exp}}}"


class sg(sp.Function):  # noqa: N801 - the field's name for it
    """Stop-gradient: the value of its argument, and no gradient."""

    nargs = 1

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        return x if x.is_number or isinstance(x, sg) else None

    def _eval_is_real(self) -> bool | None:
        return self.args[0].is_real

    def _eval_is_positive(self) -> bool | None:
        return self.args[0].is_positive

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"\mathrm{{sg}}\left({printer._print(self.args[0])}\right)"
        return body if exp is None else rf"{body}^{{{exp}}}"


class ClipMask(sp.Function):
    r"""PPO's gradient mask m(A, r, :math:`\epsilon^-`, :math:`\epsilon^+`): 0 where the clip is active, else 1.

    It is 0 where A > 0 and r > 1 + clip_high, or A < 0 and r < 1 - clip_low.
    """

    nargs = 4

    @classmethod
    def eval(cls, advantage: sp.Expr, ratio: sp.Expr, low: sp.Expr, high: sp.Expr) -> sp.Expr | None:
        """Decide the branch where the symbols' signs do, in particular at a ratio of exactly 1."""
        if ratio.has(Dot, Norm2):
            return None  # its sign is not known, and asking is slow
        above, below = sp.expand(ratio - 1 - high), sp.expand(1 - low - ratio)
        off_high = above.is_positive and advantage.is_positive
        off_low = below.is_positive and advantage.is_negative
        if off_high or off_low:
            return sp.S.Zero
        on_high = above.is_nonpositive or advantage.is_nonpositive
        on_low = below.is_nonpositive or advantage.is_nonnegative
        return sp.S.One if on_high and on_low else None

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _eval_is_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.Zero  # piecewise constant, and undefined on the kinks alone

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        return "m" if exp is None else f"m^{{{exp}}}"


class OtherMask(ClipMask):
    """1 − :class:`ClipMask`: the other branch, for samples that rounding leaves undecided."""

    @classmethod
    def eval(cls, advantage: sp.Expr, ratio: sp.Expr, low: sp.Expr, high: sp.Expr) -> sp.Expr | None:
        return None

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = r"\left(1 - m\right)"
        return body if exp is None else f"{body}^{{{exp}}}"


class Surrogate(sp.Function):
    r"""PPO's clipped surrogate, to be minimised: :math:`-\min(rA, \mathrm{clip}(r, 1-\epsilon^-, 1+\epsilon^+)A)`.

    Lemma L4 (:mod:`derivations.lemmas`) proves the derivative used here, branch by branch.
    """

    nargs = 4

    def _eval_is_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        if argindex == 2:
            return -self.args[0] * ClipMask(*self.args)
        raise ArgumentIndexError(self, argindex)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        a, r, low, high = (printer._print(x) for x in self.args)
        clip = rf"\mathrm{{clip}}\left({r},\, 1-{low},\, 1+{high}\right)"
        body = rf"-\min\left({r}\,{a},\; {clip}\,{a}\right)"
        return body if exp is None else rf"\left({body}\right)^{{{exp}}}"


_OPAQUE = (Dot, Norm2, MeanAbs)
_WITH_ARGUMENTS = (sp.exp, sp.log, ClipMask, Surrogate, MeanAbs)
_KINKED = (sp.Min, sp.Max, sp.Abs, sp.sign, sp.floor, sp.ceiling, sp.Heaviside, sp.Piecewise)


def kind(expr: sp.Expr) -> str:
    """Tell whether an expression is a ``"scalar"`` or a ``"vector"``.

    Raises:
        CalculusError: it is neither, for example a sum of both or a product of two vectors.
    """
    return _kind(sp.sympify(expr))


@lru_cache(maxsize=100_000)
def _kind(expr: sp.Expr) -> str:
    if isinstance(expr, VectorSymbol):
        return "vector"
    if isinstance(expr, _OPAQUE):
        for arg in expr.args:
            if _kind(arg) != "vector":
                raise CalculusError(f"{type(expr).__name__} takes vectors, but got the scalar {arg}")
        return "scalar"
    if isinstance(expr, sg):
        return _kind(expr.args[0])
    if not expr.args:
        return "scalar"
    kinds = [_kind(arg) for arg in expr.args]
    vectors = kinds.count("vector")
    if vectors == 0:
        return "scalar"
    if isinstance(expr, sp.Add) and vectors == len(kinds):
        return "vector"
    if isinstance(expr, sp.Mul) and vectors == 1:
        return "vector"
    raise CalculusError(f"{expr} is neither a scalar nor a vector: a vector expression is linear in vectors")


def components(expr: sp.Expr) -> dict[VectorSymbol, sp.Expr]:
    """Coefficients of a vector expression on its vector symbols, without expanding the coefficients.

    Raises:
        CalculusError: the expression is no vector, or holds ``sg`` around a vector (drop or freeze it first).
    """
    expr = sp.sympify(expr)
    if expr == 0:
        return {}
    if _kind(expr) != "vector":
        raise CalculusError(f"a vector is wanted, but {expr} is a scalar")
    out: dict[VectorSymbol, sp.Expr] = {}
    _collect(expr, sp.S.One, out)
    return out


def _collect(expr: sp.Expr, factor: sp.Expr, out: dict[VectorSymbol, sp.Expr]) -> None:
    if isinstance(expr, VectorSymbol):
        out[expr] = out.get(expr, sp.S.Zero) + factor
    elif isinstance(expr, sp.Add):
        for arg in expr.args:
            _collect(arg, factor, out)
    elif isinstance(expr, sp.Mul):
        vector = next(arg for arg in expr.args if _kind(arg) == "vector")
        scalar = sp.Mul(*(arg for arg in expr.args if arg is not vector))
        _collect(vector, factor * scalar, out)
    else:
        raise CalculusError(f"{expr} hides a vector's components")


def drop_sg(expr: sp.Expr) -> sp.Expr:
    """The value of an expression: every ``sg(x)`` becomes x."""
    while expr.has(sg):
        expr = expr.replace(sg, lambda x: x)
    return expr


def expand(expr: sp.Expr) -> sp.Expr:
    """Write every inner product as a sum over pairs of vector symbols, with scalar coefficients."""
    inner = {node: _expand_node(node) for node in _maximal(expr, (Dot, Norm2))}
    return expr.xreplace(inner)


@lru_cache(maxsize=100_000)
def _expand_node(node: sp.Expr) -> sp.Expr:
    a = components(node.args[0])
    b = a if isinstance(node, Norm2) else components(node.args[1])
    terms = []
    for u, alpha in a.items():
        for w, gamma in b.items():
            terms.append(expand(alpha) * expand(gamma) * (Norm2(u) if u == w else Dot(u, w)))
    return sp.Add(*terms)


def _maximal(expr: sp.Expr, types: tuple[type, ...]) -> list[sp.Expr]:
    """Outermost nodes of the given types, each once, in the order of the tree."""
    found: dict[sp.Expr, None] = {}
    walk = sp.preorder_traversal(expr)
    for node in walk:
        if isinstance(node, types):
            found[node] = None
            walk.skip()
    return list(found)


def _freeze(expr: sp.Expr) -> tuple[sp.Expr, dict[sp.Expr, sp.Expr]]:
    """Replace every ``sg(...)`` by a constant of its kind; the mapping restores it."""
    frozen = {}
    for i, node in enumerate(_maximal(expr, (sg,))):
        frozen[node] = (
            VectorSymbol(f"_sg{i}")
            if _kind(node) == "vector"
            else sp.Dummy(f"sg{i}", real=True, positive=True if node.is_positive else None)
        )
    return expr.xreplace(frozen), {v: k for k, v in frozen.items()}


def gradient(expr: sp.Expr, v: VectorSymbol) -> sp.Expr:
    r"""Gradient :math:`\nabla_v f` of a scalar expression: a vector expression, kept in factored form.

    ``sg(...)`` counts as a constant.  Mind that a symbol is a constant too: inline its definition first.

    Raises:
        CalculusError: the expression is no scalar, or has a kink, an unknown function or a
            :class:`MeanAbs` between it and v.
    """
    expr = sp.sympify(expr)
    if _kind(expr) != "scalar":
        raise CalculusError(f"the gradient is taken of a scalar, but {expr} is a vector")
    frozen, thaw = _freeze(expr)
    return _gradient(frozen, v).xreplace(thaw)


def _gradient(expr: sp.Expr, v: VectorSymbol) -> sp.Expr:
    if not expr.has(v):
        return sp.S.Zero
    nodes = [node for node in _maximal(expr, _OPAQUE) if node.has(v)]
    dummies = {node: sp.Dummy(f"g{i}", real=True) for i, node in enumerate(nodes)}
    back = {d: node for node, d in dummies.items()}
    outer = expr.xreplace(dummies)
    terms = []
    for node, dummy in dummies.items():
        slope = _diff(outer, dummy, expr).xreplace(back)
        if slope == 0:
            continue
        if isinstance(node, MeanAbs):
            raise CalculusError(f"{node} has no gradient here; implementations detach it, so write sg(...) around it")
        a, b = (node.args * 2)[:2]
        inner = (
            2 * _transposed_jacobian(a, b, v)
            if isinstance(node, Norm2)
            else (_transposed_jacobian(a, b, v) + _transposed_jacobian(b, a, v))
        )
        terms.append(slope * inner)
    return sp.Add(*terms)


def _transposed_jacobian(a: sp.Expr, b: sp.Expr, v: VectorSymbol) -> sp.Expr:
    """(∂a/∂v)ᵀ b for a = Σ αᵢ uᵢ, whose coefficients may depend on v too."""
    coefficients = components(a)
    out = coefficients.get(v, sp.S.Zero) * b
    for u, alpha in coefficients.items():
        if alpha.has(v):
            out += Dot(u, b) * _gradient(alpha, v)
    return out


def _diff(expr: sp.Expr, x: sp.Symbol, shown: sp.Expr) -> sp.Expr:
    """sympy.diff that refuses kinks and unknown functions instead of returning something subtle."""
    for node in sp.preorder_traversal(expr):
        if isinstance(node, _KINKED) and node.has(x):
            raise CalculusError(
                f"{type(node).__name__} has a kink, so {shown} has no gradient everywhere; "
                "state it as branches (see Surrogate) or put it inside sg(...)"
            )
    slope = sp.diff(expr, x)
    if slope.has(sp.Derivative, sp.Subs):
        raise CalculusError(f"{shown} holds a function whose derivative is not known")
    return slope


def _shift(expr: sp.Expr, v: VectorSymbol, by: sp.Expr) -> tuple[sp.Expr, dict[sp.Expr, sp.Expr]]:
    frozen, thaw = _freeze(expr)
    return frozen.xreplace({v: v + by}), thaw


@lru_cache(maxsize=10_000)  # variants share most of their statements
def gradient_residual(expr: sp.Expr, v: VectorSymbol, claimed: sp.Expr) -> sp.Expr:
    r"""What is left of :math:`\frac{d}{ds}f(v+sh)|_{s=0} - \langle g, h\rangle`; zero proves the claim g."""
    s, h = sp.Dummy("s", real=True), fresh_vector(expr, sp.sympify(claimed))
    if _kind(sp.sympify(expr)) != "scalar":
        raise CalculusError(f"the gradient is taken of a scalar, but {expr} is a vector")
    shifted, thaw = _shift(expr, v, s * h)
    slope = _diff(expand(shifted), s, expr).xreplace({s: sp.S.Zero}).xreplace(thaw)
    claim = expand(Dot(drop_sg(sp.sympify(claimed)), h)) if claimed != 0 else sp.S.Zero
    return normal(expand(drop_sg(slope)) - claim)


def fresh_vector(*exprs: sp.Expr) -> VectorSymbol:
    """A vector that none of the expressions holds: an arbitrary direction must be independent of them."""
    taken = {symbol.name for expr in exprs for symbol in sp.sympify(expr).free_symbols}
    return VectorSymbol(next(name for name in ("h", *(f"h{i}" for i in range(len(taken)))) if name not in taken))


def hessian_product(expr: sp.Expr, v: VectorSymbol, h: VectorSymbol) -> sp.Expr:
    """Hessian of a scalar expression in v, applied to an arbitrary vector h: a vector expression.

    Raises:
        CalculusError: as :func:`gradient`.
    """
    s = sp.Dummy("s", real=True)
    frozen, thaw = _freeze(expr)
    shifted = _gradient(frozen, v).xreplace({v: v + s * h})
    out = []
    for u, coefficient in components(shifted).items():
        out.append(_diff(expand(coefficient), s, expr).xreplace({s: sp.S.Zero}) * u)
    return sp.Add(*out).xreplace(thaw)


def normal(expr: sp.Expr) -> sp.Expr:
    """A scalar's numerator, expanded, in which equal rational expressions cancel: 0 where the scalar is 0."""
    expr = sp.sympify(expr)
    if expr == 0:
        return sp.S.Zero
    expr = _unify(expr)
    if _vanishes_in_field(expr):
        return sp.S.Zero
    numerator, _ = sp.fraction(sp.together(_expand_arguments(expr)))
    return sp.expand(_expand_arguments(sp.expand(numerator)))


def _vanishes_in_field(expr: sp.Expr) -> bool:
    """Whether it is 0 as a rational function of its atoms (symbols, functions, roots).

    True is a proof; False may only mean that a relation between atoms is needed, as between √x and x.
    Arithmetic in SymPy's fraction field is several times as fast as ``together`` and ``expand``.
    """
    atoms: dict[sp.Expr, int] = {}
    _find_atoms(expr, atoms)
    if not atoms:
        return bool(expr == 0)
    _, *generators = field([f"x{i}" for i in range(len(atoms))], sp.QQ)
    known: dict[sp.Expr, Any] = {atom: generators[i] for atom, i in atoms.items()}
    return bool(_in_field(expr, known, generators[0].field) == 0)


def _find_atoms(expr: sp.Expr, atoms: dict[sp.Expr, int]) -> None:
    if expr.is_Rational:
        return
    if isinstance(expr, (sp.Add, sp.Mul)):
        for arg in expr.args:
            _find_atoms(arg, atoms)
    elif isinstance(expr, sp.Pow) and expr.exp.is_Integer:
        _find_atoms(expr.base, atoms)
    else:
        atoms.setdefault(expr, len(atoms))


def _in_field(expr: sp.Expr, known: dict[sp.Expr, Any], ring: Any) -> Any:
    if expr in known:
        return known[expr]
    if expr.is_Rational:
        return ring.domain.from_sympy(expr) * ring.one
    if isinstance(expr, sp.Add):
        value = sum((_in_field(arg, known, ring) for arg in expr.args), ring.zero)
    elif isinstance(expr, sp.Mul):
        value = ring.one
        for arg in expr.args:
            value *= _in_field(arg, known, ring)
    else:
        value = _in_field(expr.base, known, ring) ** int(expr.exp)
    known[expr] = value
    return value


def _unify(expr: sp.Expr) -> sp.Expr:
    """Replace functions whose arguments are equal, though written differently, by one of them."""
    same: dict[sp.Expr, sp.Expr] = {}
    kept: list[sp.Expr] = []
    for node in _maximal(expr, _WITH_ARGUMENTS):
        opened = node if isinstance(node, MeanAbs) else node.func(*(expand(arg) for arg in node.args))
        twin = next((other for other in kept if _same_arguments(opened, other)), None)
        if twin is None:
            kept.append(opened)
        same[node] = opened if twin is None else twin
    return expr.xreplace(same)


def _same_arguments(a: sp.Expr, b: sp.Expr) -> bool:
    if a.func is not b.func:
        return False
    if isinstance(a, MeanAbs):
        return all(_vanishes_in_field(expand(c)) for c in components(a.args[0] - b.args[0]).values())
    return all(x == y or _vanishes_in_field(x - y) for x, y in zip(a.args, b.args, strict=True))


def _expand_arguments(expr: sp.Expr) -> sp.Expr:
    """Bring the arguments of functions and roots to expanded form, so that equal ones are one atom."""
    inner = {}
    for node in _maximal(expr, _WITH_ARGUMENTS):
        if isinstance(node, MeanAbs):
            inner[node] = MeanAbs(_ordered(node.args[0]))
        else:
            inner[node] = node.func(*(sp.expand(sp.cancel(expand(arg))) for arg in node.args))
    return expr.xreplace(inner)


def _ordered(vector: sp.Expr) -> sp.Expr:
    return sp.Add(*(sp.expand(c) * u for u, c in components(vector).items()))


def is_zero(expr: sp.Expr) -> bool:
    """Whether a scalar or vector expression vanishes identically in value, for every dimension D.

    ``False`` means "not proved": simplification is no decision procedure for all of mathematics.
    """
    return residual(expr) == 0


@lru_cache(maxsize=10_000)
def residual(expr: sp.Expr) -> sp.Expr:
    """What is left of an expression that should vanish in value, up to a denominator: 0 where it does."""
    expr = drop_sg(sp.sympify(expr))
    if expr == 0:
        return sp.S.Zero
    if _kind(expr) == "scalar":
        return normal(expand(expr))
    return sp.Add(*(normal(expand(c)) * u for u, c in components(expr).items()))
