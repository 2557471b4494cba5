"""What may be declared, for ``gradcheck list --options``."""

from __future__ import annotations

from derivations.on_top import ON_TOP
from derivations.steps.parameterisation import ERROR_SPACES, PREDICTIONS
from gradcheck.catalogue import ALGORITHMS
from gradcheck.conventions.presets import PRESETS

__all__ = ["options_text"]

_WHOLE_OF = {"pairs": "diffusion_dpo", "groups": "dgpo"}
_WHOLE = {
    "pairs": "where your loss takes whole pairs: adjacent, halves (winners, then losers), given",
    "groups": "where your loss takes whole groups: how many neighbours make one",
}
_HELD = {
    "clip_range": "the clip's width, if your code holds it itself: 0.2, or (0.2, 0.28) for below and above",
    "latent_axes": "how many axes your latents have besides the batch's, if your code takes no others: 3 for images",
    "output_dtype": "what your network puts out, if your loss casts it up: bfloat16, float16",
    "working_dtype": "what your loss casts everything to: float32",
}
"""What code often holds itself, besides the formulas' options; the guide has the rest."""


def options_text() -> str:
    """What may be declared, one line for each option: its own of each algorithm, and those of all."""
    lines = []
    for algorithm in ALGORITHMS:
        lines.append(algorithm.name)
        lines += [f"  {name:20} {', '.join(values)}" for name, values in algorithm.options.items()]
        lines += [f"  {name:20} {words}" for name, words in _WHOLE.items() if _WHOLE_OF[name] == algorithm.name]
    lines += [
        "every algorithm",
        f"  {'prediction':20} {', '.join(PREDICTIONS)}",
        f"  {'noise_at':20} 1, 0",
        f"  {'error_space':20} {', '.join(ERROR_SPACES)}",
        f"  {'batch_reduction':20} mean, sum, none",
        *(f"  {name:20} {ON_TOP[name].explained}" for name in sorted(ON_TOP)),
        *(f"  {name:20} {words}" for name, words in _HELD.items()),
        "preset, in their place: the declaration of a public implementation",
        *(f"  {name:24} {p['algorithm']}" for name, p in PRESETS.items()),
    ]
    return "\n".join(lines)
