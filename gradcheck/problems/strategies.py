r"""Hypothesis strategies for problems, inferred from what a derivation needs.

Hypothesis draws shapes, regimes and a seed; :func:`gradcheck.problems.building.build` makes the tensors.  A falsifying
example is therefore small and readable, and it shrinks towards one sample of one coordinate.
"""

from __future__ import annotations

from hypothesis import strategies as st

from derivations.derivation import Derivation
from derivations.pieces import Piece
from gradcheck.problems.building import Spec
from gradcheck.problems.regimes import ADVANTAGE, CLIP_RANGES, NOISE, POLICY, TIME

__all__ = ["shapes", "specs"]

_SIZES = (1, 2, 3, 4, 5, 7, 11, 13)
"""Axis sizes; a shape has pairwise distinct ones, so that no two axes can be taken for each other."""


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, tuple[int, ...]]:
    """A batch size and a latent shape of one to four axes, at times with one sample or one coordinate."""
    rank = draw(st.integers(1, 4), label="latent axes")
    allowed = _SIZES if rank < 4 else _SIZES[:6]  # a 5-D latent keeps to some hundred coordinates
    sizes = draw(st.lists(st.sampled_from(allowed), min_size=rank + 1, max_size=rank + 1, unique=True), label="sizes")
    latent = tuple(sizes[1:])
    return sizes[0], draw(st.sampled_from([(1,) * rank, latent, latent, latent]), label="latent")


def specs(derivation: Derivation) -> st.SearchStrategy[Spec]:
    """Problems of one derivation: every regime that its quantities can be in, and all of them in one batch."""

    def regime(names: tuple[str, ...], applies: bool) -> st.SearchStrategy[str]:
        return st.sampled_from(("mixed", *names)) if applies else st.just("mixed")

    given = set(derivation.given)
    policy = POLICY if Piece.RATIO in derivation.pieces else POLICY[:3]
    return st.builds(
        lambda shape, **rest: Spec(batch=shape[0], latent=shape[1], **rest),
        shape=shapes(),
        seed=st.integers(0, 2**32 - 1),
        policy=regime(policy, "v_old" in given),
        advantage=regime(ADVANTAGE, bool(given & {"advantage", "reward_prob"})),
        time=regime(TIME, bool(given & {"t", "alpha_bar"})),
        noise=st.sampled_from(NOISE) if "noise_level" in given else st.just("typical"),
        clip=st.integers(0, len(CLIP_RANGES) - 1) if given & {"clip_low", "divergence_max"} else st.just(0),
    )
