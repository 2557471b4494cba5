r"""Mistakes of code whose network predicts noise or data, or whose time runs the other way: the conversion is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import sympy as sp

from derivations import notation as n
from derivations.calculus import sg
from derivations.derivation import Change, Derivation, inline
from derivations.steps.paths import path_of
from gradcheck.oracle.mistakes.candidates import Mistake, as_a_whole
from gradcheck.oracle.mistakes.places import Stated, carried

__all__ = ["carried_over", "conversion_mistakes"]

_WORD = {"epsilon": "noise", "x0": "clean latent"}
_OTHER = {"epsilon": "x0", "x0": "epsilon"}
_MODELS = (n.v_theta, n.v_old, n.v_ref)

Velocities = Mapping[sp.Symbol, sp.Expr]


def carried_over(mistake: Mistake, change: Change, own: Stated) -> Mistake:
    """The same mistake, made in other variables."""
    sentence = mistake.sentence
    if change.renamed.get(n.t) == 1 - n.t:  # velocities are the opposite there
        sentence = sentence.replace("x_0 − ε", "·").replace("ε − x_0", "x_0 − ε").replace("·", "ε − x_0")
    edits = {s: carried(e, change) for s, e in mistake.edits.items()}
    return Mistake(mistake.name, sentence, own, edits, mistake.generic, listed=True)


def _rewritten(loss: sp.Expr, renamed: Velocities, made: Velocities) -> sp.Expr:
    return inline(loss.xreplace(dict(renamed)), made)


def conversion_mistakes(d: Derivation) -> Iterator[Mistake]:
    """Wrong conversions of what the network puts out, and a direction of time that is only half turned."""
    change = d.change
    assert change is not None
    turned = d.output == change.origin.output
    if not turned and not change.made:
        return  # nothing is converted
    seen = {_wrong(change, change.renamed, change.made)}
    for name, sentence, other in _turned_in_part() if turned else _converted_wrongly(d, change):
        renamed, made = ({**change.renamed, **other}, change.made) if turned else ({}, {**change.made, **other})
        wrong = _wrong(change, renamed, made)
        if wrong not in seen:
            seen.add(wrong)
            yield as_a_whole(name, sentence, wrong)


def _wrong(change: Change, renamed: Velocities, made: Velocities) -> sp.Expr:
    """The loss of the variables before with these meanings; a sampled state stays as it was given."""
    origin = change.origin
    every = {**origin.definitions, **origin.coefficients}
    formulas = {s: e for s, e in every.items() if s not in (n.x_prev, n.x_t)}
    return _rewritten(inline(origin.loss, formulas), renamed, made)


def _converted_wrongly(d: Derivation, change: Change) -> Iterator[tuple[str, str, Velocities]]:
    what = "epsilon" if d.output == n.noise_theta else "x0"
    word, path = _WORD[what], path_of(d)
    used = {v: u for v, u in _outputs(what).items() if v in change.made}
    slope, offset = path.slope(what), path.velocity_from(what, sp.S.Zero)
    divisor = path.alpha if what == "epsilon" else path.sigma

    def each(sentence: str, name: str, velocity: object) -> tuple[str, str, Velocities]:
        return name, sentence, {v: velocity(u) for v, u in used.items()}  # type: ignore[operator]

    yield each(
        f"the predicted {word} stands where the velocity that belongs to it must",
        "conversion-missing",
        lambda u: u,
    )
    yield each(
        f"the conversion from the predicted {word} to the velocity has the wrong sign",
        "conversion-sign",
        lambda u: -offset - slope * u,
    )
    yield each(
        f"the velocity made of the predicted {word} is not divided by {_divisor_word(divisor)}",
        "conversion-undivided",
        lambda u: divisor * (offset + slope * u),
    )
    yield each(
        f"the noised latent has the wrong sign in the conversion from the predicted {word}",
        "conversion-state-sign",
        lambda u: slope * u - offset,
    )
    swapped = {n.t: 1 - n.t, n.alpha_bar: 1 - n.alpha_bar}
    yield each(
        f"the conversion from the predicted {word} has t and 1 − t exchanged (or √ᾱ and √(1 − ᾱ))",
        "conversion-time",
        lambda u: (offset + slope * u).xreplace(swapped),
    )
    yield each(
        f"the output is converted as if it were the {_WORD[_OTHER[what]]}; it is the {word}",
        "conversion-other",
        lambda u: path.velocity_from(_OTHER[what], u),
    )
    if path.alpha == 1 - n.t:
        signal, noise = sp.sqrt(1 - n.t), sp.sqrt(n.t)
        yield each(
            f"the predicted {word} is converted as if x_t were √(1 − t) x_0 + √t ε; it is (1 − t) x_0 + t ε",
            "conversion-path",
            (lambda u: u - (n.x_t - noise * u) / signal)
            if what == "epsilon"
            else (lambda u: (n.x_t - signal * u) / noise - u),
        )
    truth = path.alpha_rate * n.x_0 + path.sigma_rate * n.noise
    predicted, true = (path.sigma_rate, n.noise) if what == "epsilon" else (path.alpha_rate, n.x_0)
    mixed = each(
        f"the velocity is made of the predicted {word} and of the true "
        f"{_WORD[_OTHER[what]]}; it must be made of the predicted one and x_t",
        "conversion-mixed",
        lambda u: truth + predicted * (u - true),
    )
    yield mixed
    yield *mixed[:2], {n.v_theta: mixed[2][n.v_theta]}
    output = used[n.v_theta]
    yield (
        "conversion-detached",
        f"a part of the conversion is detached, so that the gradient lacks the chain factor ∂velocity/∂{word}",
        {
            n.v_theta: sg(offset + slope * output) + predicted * (output - sg(output)),
            **{v: offset + slope * u for v, u in used.items() if v != n.v_theta},
        },
    )
    for model, whose in ((n.v_old, "behaviour"), (n.v_ref, "reference")):
        if model in used:
            yield (
                f"conversion-{whose}",
                f"the {whose} model's prediction is not converted to a velocity, as the trained one's is",
                {model: used[model]},
            )


def _divisor_word(divisor: sp.Expr) -> str:
    names = {n.t: "t", 1 - n.t: "1 − t", sp.sqrt(n.alpha_bar): "√ᾱ", sp.sqrt(1 - n.alpha_bar): "√(1 − ᾱ)"}
    return names[divisor]


def _outputs(what: str) -> dict[sp.Symbol, sp.Symbol]:
    if what == "epsilon":
        return {n.v_theta: n.noise_theta, n.v_old: n.noise_old, n.v_ref: n.noise_ref}
    return {n.v_theta: n.x_0_theta, n.v_old: n.x_0_old, n.v_ref: n.x_0_ref}


def _turned_in_part() -> Iterator[tuple[str, str, Velocities]]:
    velocities = {v: v for v in (*_MODELS, n.v_gt, n.delta, n.Delta)}
    yield (
        "velocity-unturned",
        "time is turned round and the velocities are not: where the noise is at t = 0 they are the opposite",
        {v: v for v in velocities},
    )
    yield (
        "time-unturned",
        "t stands where 1 − t must: the formulas are those of noise at t = 1, and the declared noise is at t = 0",
        {n.t: n.t, n.t_prev: n.t_prev},
    )
