"""What a declaration may say of how a trainer holds its batch, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from derivations.notation import error_gap, group_gap, partner_gap
from gradcheck.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from gradcheck.conventions import Conventions

__all__ = ["PAIRS", "PairLayout", "check_units", "layout_problems", "layout_values"]

PairLayout = Literal["adjacent", "halves", "given"]
"""A way in which the samples of pairs lie."""

PAIRS: tuple[PairLayout, ...] = get_args(PairLayout)
"""Where the two samples of a pair stand in the batch."""


def layout_problems(declared: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is wrong, as an :class:`InputError` takes it."""
    for name, least, most in (("latent_axes", 1, 4), ("groups", 2, 64)):
        value = declared.get(name)
        if value is not None and not (_is_whole(value) and least <= value <= most):
            yield name, repr(value), f"a whole number from {least} to {most}"
    latents = declared.get("latents")
    if latents is not None and not _are_shapes(latents):
        yield (
            "latents",
            f"{latents!r:.60}",
            "shapes of one sample, of one to four sizes each: [(4, 8, 8)]",
        )
    for name in ("one_time", "steps"):
        if not isinstance(declared.get(name, False), bool):
            yield name, repr(declared[name]), "True or False"
    pairs = declared.get("pairs")
    if pairs is not None and pairs not in PAIRS:
        yield "pairs", repr(pairs), f"one of {', '.join(map(repr, PAIRS))}{did_you_mean(str(pairs), PAIRS)}"
    scale = declared.get("guidance")
    if not (scale is None or scale is True or (_is_number(scale) and abs(scale) <= 100)):
        yield "guidance", repr(scale), "the guidance scale, a number, or True for case.guidance_scale"
    together = [n for n in ("steps", "pairs", "groups") if declared.get(n)]
    if len(together) > 1:
        yield together[1], repr(declared[together[1]]), f"not together with {together[0]}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()


def _are_shapes(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(
            isinstance(shape, (list, tuple)) and 1 <= len(shape) <= 4 and all(_is_whole(n) and n >= 1 for n in shape)
            for shape in value
        )
    )


def layout_values(declared: Mapping[str, Any]) -> dict[str, Any]:
    """The same with whole numbers and tuples, as it is held."""
    found: dict[str, Any] = {n: int(declared[n]) for n in ("latent_axes", "groups") if declared.get(n) is not None}
    if declared.get("latents") is not None:
        found["latents"] = tuple(tuple(int(n) for n in shape) for shape in declared["latents"])
    return found


def check_units(declaration: Conventions) -> None:
    """Refuse a batch that the declared loss cannot have.

    Raises:
        InputError: pairs of a loss that knows none, and the like.
    """
    given = declaration.derivation.given
    problems = []
    for name, gap, words in (
        ("pairs", partner_gap, "a loss on preferences, such as diffusion_dpo"),
        ("groups", group_gap, "a loss on groups, such as dgpo"),
    ):
        value = getattr(declaration, name)
        if value is not None and (gap.name not in given or error_gap not in declaration.derivation.definitions):
            problems.append((name, repr(value), words))
        if value is not None and (declaration.batch_reduction == "none" or declaration.compare_values):
            problems.append(
                (name, repr(value), "batch_reduction 'mean' or 'sum' with it, and gradients compared alone")
            )
    if declaration.steps and declaration.batch_reduction == "none":
        problems.append(("steps", "True", "batch_reduction 'mean' or 'sum' with it"))
    if declaration.guidance is not None and declaration.prediction != "v":
        problems.append(("guidance", repr(declaration.guidance), "prediction 'v' with it"))
    if problems:
        raise InputError(*problems)
