"""Random texts: syntax trees of any shape, losses that make sense, and plain noise."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import strategies as st

from derivations.grammar.names import ALIASES, AMBIGUOUS, CANONICAL, FUNCTIONS
from derivations.grammar.syntax import Call, Name, Negative, Node, Number, Power, Product, Sum

NAMES = (*CANONICAL, *ALIASES, *AMBIGUOUS, "foo", "e5", "x1_")

_numbers = st.builds(
    lambda digits, places: Number(Fraction(digits, 10**places)), st.integers(0, 10**12), st.integers(0, 12)
)
_leaves: st.SearchStrategy[Node] = st.one_of(_numbers, st.sampled_from(NAMES).map(Name))


def _grown(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    def chain(kind: type, first: str, signs: str) -> st.SearchStrategy[Node]:
        return st.lists(st.tuples(st.sampled_from(signs), children), min_size=2, max_size=4).map(
            lambda items: kind(tuple(x for _, x in items), (first, *(s for s, _ in items[1:])))
        )

    return st.one_of(
        chain(Sum, "+", "+-"),
        chain(Product, "*", "*/"),
        children.map(Negative),
        st.builds(Power, children, children),
        st.builds(
            lambda f, args: Call(f, tuple(args)),
            st.sampled_from([*FUNCTIONS, "foo"]),
            st.lists(children, min_size=1, max_size=3),
        ),
    )


trees = st.recursive(_leaves, _grown, max_leaves=12)
"""Syntax trees, most of which make no sense."""

noise = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="()+-*/^=;,.\n 0123456789eAr_vθβε²#\x00'", max_size=80),
    st.lists(st.sampled_from([*NAMES, *FUNCTIONS, *"()+-*/^=;,", "**", "2", "1e-5", "\n"]), max_size=40).map(" ".join),
)

_vectors = st.sampled_from(
    (
        "v_theta - v_gt",
        "v_theta - v_old",
        "v_theta - v_ref",
        "(1 - beta)*v_old + beta*v_theta - v_gt",
        "v_theta + noise",
    )
)
_squares = st.builds(
    lambda f, v: f.format(v), st.sampled_from(("norm2({})", "mean(({})**2)", "mse({}, x_0)")), _vectors
)
_inner = st.builds(lambda v, w: f"dot({v}, {w})", _vectors, st.sampled_from(("noise", "v_old - v_gt", "x_0")))
_coefficients = st.sampled_from(
    ("A", "0.5", "exp(R/tau)", "r", "(1 - r)", "kl_weight", "t**2", "sg(exp(-mse(v_theta, v_gt)))")
)
_terms = st.builds(lambda c, x: f"{c}*{x}", _coefficients, st.one_of(_squares, _inner))
_curved = st.builds(
    lambda f, v: f.format(v),
    st.sampled_from(
        (
            "sqrt(mean(({})**2) + 0.01)",
            "A*exp(-mean(({})**2))",
            "log(1 + mean(({})**2))",
            "sigmoid(A*mean(({})**2))",
            "min(mean(({})**2), 1)",
            "A*max(mean(({})**2), 0.5)",
            "clip(mean(({})**2), 0.5, 1.5)",
            "abs(mean(({})**2) - 1)",
        )
    ),
    _vectors,
)
losses = st.builds(
    lambda plain, curved: " + ".join([*plain, *curved]),
    st.lists(_terms, max_size=2),
    st.lists(_curved, max_size=1),
).filter(bool)
"""Losses that make sense, quadratic or curved, with kinks."""
