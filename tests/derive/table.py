"""The catalogue's own lines: each entry's loss as a user would write it, and the reverse step that it is on."""

from __future__ import annotations

from derivations.steps.sde import step_with
from gradcheck.catalogue import CATALOGUE, Entry


def _step(entry: Entry) -> str | None:
    step = step_with(entry.derivation.coefficients)
    return None if step is None else step.name


EXPRESSIONS: dict[str, tuple[str, str | None]] = {
    entry.label: (entry.algorithm.lines[entry.variant], _step(entry)) for entry in CATALOGUE
}

ON_BOTH = {"awm[clipped-elbo]"}
"""Losses of the forward process that rest on the sampler's noise too: their line is read as of the backward process,
for which the usual weight is another."""
