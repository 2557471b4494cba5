"""A declaration built from keywords, every mistake told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

from derivations.algorithm import Algorithm
from derivations.derivation import DerivationError, PathName
from derivations.notation import quantity
from derivations.on_top import ON_TOP
from gradcheck.catalogue import ALGORITHMS
from gradcheck.conventions.declaration import NAMED_APART, Conventions, algorithm_of
from gradcheck.conventions.presets import PRESETS
from gradcheck.conventions.problems import domain_problems
from gradcheck.derived.composed import on_top_problems
from gradcheck.derived.typed import TypedLoss, own_quantities
from gradcheck.errors import InputError, did_you_mean, forgiven, one_of
from gradcheck.problems.layouts import check_units, layout_problems, layout_values

__all__ = ["declare"]


def declare(
    algorithm: str | None = None,
    *,
    loss: str | None = None,
    given: Mapping[str, str] | None = None,
    preset: str | None = None,
    **declared: Any,
) -> Conventions:
    """Build a declaration from keywords.

    Args:
        algorithm: a name of the catalogue; may be left out with a preset, and must be with a loss.
        loss: the loss itself, one line of ``gradcheck derive``'s grammar.
        given: quantities of your own on which that line rests: ``{"adjoint": "latent", "w": "sample"}``.
        preset: start from one of :data:`PRESETS`.
        declared: fields of :class:`Conventions`, options of the algorithm, numbers that the implementation holds,
            and ``clip_range``: one number, or the pair (low, high).

    Raises:
        InputError: something unknown or out of its domain; all mistakes are listed.
    """
    if given and loss is None:
        raise InputError(("given", repr(given), "loss= with it, the line that uses these quantities"))
    own = tuple(sorted((name, str(given[name])) for name in own_quantities(given))) if given else ()
    if loss is not None:
        _check_loss(loss, algorithm, preset)
        algorithm = TypedLoss.name
    if preset is not None:
        known_preset = forgiven(preset, PRESETS)
        if known_preset not in PRESETS:
            raise InputError(("preset", repr(preset), one_of(preset, PRESETS, "a preset")))
        base = dict(PRESETS[known_preset])
        if algorithm is not None and forgiven(algorithm, _ALGORITHM_NAMES) != base["algorithm"]:
            raise InputError(("algorithm", repr(algorithm), f"{base['algorithm']!r}, which the preset is of"))
        algorithm = base.pop("algorithm")
        declared = {**base, **declared}
    if algorithm is None:
        names = ", ".join(a.name for a in ALGORITHMS)
        raise InputError(("algorithm", "nothing", f"one of {names}; or loss=, the loss in one line"))
    if not loss:
        algorithm = forgiven(algorithm, _ALGORITHM_NAMES)
    stated = algorithm_of(algorithm, loss or "", own)
    problems: list[tuple[str, str, str]] = []
    options, fixed, rest = {}, {}, {}
    on_top: dict[str, Any] = {}
    plain = {f.name for f in fields(Conventions)} - NAMED_APART
    numbers = {*_numbers(stated)}.union(*(ON_TOP[name].numbers for name in ON_TOP if name in declared))
    known = [*stated.options, *sorted(ON_TOP), *sorted(plain), *sorted(numbers), "clip_range"]
    for given_name, given_value in declared.items():
        name = forgiven(given_name, known)
        words = ON_TOP[name].words if name in ON_TOP else ()
        value = _forgiven_value(given_value, [*stated.options.get(name, ()), *words])
        if name in ON_TOP and value not in stated.options.get(name, ()):
            on_top |= {} if value is None else {name: value}  # None: as if it were not declared
        elif name in stated.options:
            if value not in stated.options[name]:
                hint = did_you_mean(str(value), stated.options[name])
                problems.append((name, repr(value), f"one of {', '.join(map(repr, stated.options[name]))}{hint}"))
            options[name] = value
        elif name == "clip_range" and "clip_low" in numbers:
            pair = value if isinstance(value, (tuple, list)) else (value, value)
            if len(pair) != 2 or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in pair):
                problems.append((name, repr(value), "a number, or the pair (low, high)"))
            else:
                fixed["clip_low"], fixed["clip_high"] = map(float, pair)
        elif name in numbers:
            fixed[name] = value
        elif name in plain:
            rest[name] = value
        else:
            elsewhere = f"a convention of {algorithm}; `gradcheck list --options` shows them"
            problems.append((str(name), repr(value), one_of(name, known, elsewhere)))
    problems += domain_problems(fixed, rest, _path(stated))
    problems += on_top_problems(on_top)
    problems += layout_problems(rest)
    if problems:
        raise InputError(*problems)
    for name in on_top:
        if ON_TOP[name].takes_place_of in stated.options.get(name, ()):
            options[name] = ON_TOP[name].takes_place_of
    rest |= layout_values(rest)
    declared_on_top = tuple(sorted(on_top.items()))
    declaration = Conventions(algorithm, loss or "", own, options=options, on_top=declared_on_top, fixed=fixed, **rest)
    if declaration.error_space == "output":
        _check_error_space(declaration)
    check_units(declaration)
    return declaration


_ALGORITHM_NAMES = tuple(a.name for a in ALGORITHMS)


def _forgiven_value(value: Any, choices: Sequence[Any]) -> Any:
    """A word among these choices, whatever its case, spaces and hyphens; anything else as it is."""
    return forgiven(value, [x for x in choices if isinstance(x, str)]) if isinstance(value, str) else value


def _check_loss(loss: Any, algorithm: str | None, preset: str | None) -> None:
    if not isinstance(loss, str) or not loss.strip():
        raise InputError(("loss", repr(loss), "the loss in one line: loss='A*norm2(v_theta - v_gt)'"))
    other = next(((n, x) for n, x in (("algorithm", algorithm), ("preset", preset)) if x is not None), None)
    if other is not None:
        raise InputError((other[0], repr(other[1]), "nothing with it, where loss= states the loss itself"))


def _check_error_space(declaration: Conventions) -> None:
    if declaration.prediction == "v":
        raise InputError(("error_space", "'output'", "prediction='epsilon' or 'x0' with it"))
    try:
        _ = declaration.derivation
    except DerivationError:
        raise InputError(
            ("error_space", "'output'", "'velocity': this loss is more than an error of the predictions")
        ) from None


@lru_cache(maxsize=100)
def _numbers(algorithm: Algorithm | TypedLoss) -> tuple[str, ...]:
    """One-number quantities of any variant of the algorithm."""
    names: dict[str, None] = {}
    for variant in algorithm.variants:
        names |= {n: None for n in algorithm.derive(variant).given if quantity(n).axes == "problem" and n != "D"}
    return tuple(names)


@lru_cache(maxsize=100)
def _path(algorithm: Algorithm | TypedLoss) -> PathName:
    """What x_t is made of in the form of the paper."""
    return algorithm.derive().path
