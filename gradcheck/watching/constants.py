"""The constant by which a training step's whole gradient differs from the declared loss's: expected, and recognised."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["Constants", "Found"]

_SENTENCES = {
    "accumulation": "the accumulation of {accumulation:g} micro-batches is counted wrongly: ",
    "world_size": "the {world_size:g} processes are counted wrongly (DDP and FSDP average over them already): ",
    "loss_scale": "the loss scale of {loss_scale:g} is counted wrongly: ",
}
_POWERS = (1, -1, 2, -2)


@dataclass(frozen=True)
class Found:
    """A constant with a formula.

    Attributes:
        formula: as it is told.
        value: its number.
        cause: the id of what is wrong, empty where nothing is.
        because: the sentence.
    """

    formula: str
    value: float
    cause: str = ""
    because: str = ""


@dataclass(frozen=True)
class Constants:
    """What multiplies the gradient between the declared loss and the backward pass.

    Attributes:
        given: ``accumulation``, ``world_size`` and ``loss_scale``, those that were told.
        batch, size: the batch and the number of coordinates of one sample.
        declared: whether the user said anything about constants at all; if not, one is told, not judged.
    """

    given: Mapping[str, float]
    batch: int
    size: int
    declared: bool

    @property
    def expected(self) -> float:
        """Micro-batches are averaged, the loss scale multiplies; ranks are averaged later, at the parameters."""
        return self.given.get("loss_scale", 1.0) / self.given.get("accumulation", 1.0)

    @property
    def formula(self) -> str:
        return _written({"loss_scale": 1, "accumulation": -1}, self.given)

    def recognise(self, factor: float, tolerance: float) -> Found | None:
        """What a constant factor on top of the expected one is.

        Args:
            factor: the observed gradient over the expected one.
            tolerance: how far it may be off, relatively.
        """

        def equal(value: float) -> bool:
            return abs(factor - value) <= tolerance * abs(value)

        total = factor * self.expected
        if equal(1.0):
            return Found(self.formula, total)
        if factor < 0:
            twin = self.recognise(-factor, tolerance)
            size = "" if twin is None or not twin.because else f"; besides, {twin.because}"
            sentence = "the gradient has the wrong sign: the loss is maximised"
            return Found(f"-{twin.formula if twin else f'{-total:.6g}'}", total, "sign", sentence + size)
        for powers, value in self._products():
            if equal(value):
                return self._of_given(powers, total)
        return self._of_shape(equal, total) or (None if self.declared else self._plain(factor, equal))

    def _products(self) -> Iterator[tuple[dict[str, int], float]]:
        """Powers of the given numbers, the simplest first; a number that is 1 says nothing."""
        names = [name for name, value in self.given.items() if value != 1.0]
        single = [{name: p} for p in _POWERS for name in names]
        pairs = [
            {a: p, b: q} for a, b in itertools.combinations(names, 2) for p, q in itertools.product((1, -1), repeat=2)
        ]
        for powers in (*single, *pairs):
            yield powers, math.prod(self.given[name] ** p for name, p in powers.items())

    def _of_given(self, powers: Mapping[str, int], total: float) -> Found:
        own = {"loss_scale": 1, "accumulation": -1}
        whole = {name: own.get(name, 0) * (name in self.given) + powers.get(name, 0) for name in (*own, "world_size")}
        first = next(iter(powers))
        sentence = _SENTENCES[first].format(**self.given)
        return Found(
            _written(whole, self.given),
            total,
            first.replace("_", "-"),
            f"{sentence}the gradient is the required one times {_written(powers, self.given)}",
        )

    def _of_shape(self, equal: object, total: float) -> Found | None:
        assert callable(equal)
        rows = [
            (1 / self.size, "1/D", "mean-for-sum", "averaged over the latent's coordinates where it must be summed"),
            (float(self.size), "D", "sum-for-mean", "summed over the latent's coordinates where it must be averaged"),
            (float(self.batch), "B", "convention:batch_reduction", "not divided by the batch size, as declared"),
            (1 / self.batch, "1/B", "convention:batch_reduction", "divided by the batch size once more than declared"),
        ]
        for value, name, cause, words in rows:
            if value != 1.0 and equal(value):
                told = not self.declared and cause.startswith("convention")
                sentence = f"the loss is {words}"
                return Found(name, total, "" if told else cause, sentence)
        return None

    def _plain(self, factor: float, equal: object) -> Found | None:
        """A whole number, or one over it, of which nobody said anything: micro-batches, steps, ranks or a scale.

        It is told, and not judged.  Any other number is no such count: in a batch of one sample, or of one time, that
        is how a wrong coefficient looks.
        """
        assert callable(equal)
        whole, part = round(factor), round(1 / factor) if factor else 0
        if whole > 1 and equal(float(whole)):
            formula = f"{whole}" if whole & (whole - 1) or whole < 2**10 else f"2^{whole.bit_length() - 1}"
        elif part > 1 and equal(1 / part):
            formula = f"1/{part}"
        else:
            return None
        sentence = (
            f"the whole gradient is the declared loss's times {formula}; say accumulation=, loss_scale=, world_size= "
            "or factor= to have that checked"
        )
        return Found(formula, factor, "", sentence)


def _written(powers: Mapping[str, int], given: Mapping[str, float]) -> str:
    def part(sign: int) -> list[str]:
        return [
            name if abs(p) == 1 else f"{name}^{abs(p)}"
            for name, p in powers.items()
            if name in given and p * sign > 0 and (given[name] != 1.0)
        ]

    above, below = part(1), part(-1)
    top = "·".join(above) or "1"
    if not below:
        return top
    return f"{top}/{below[0]}" if len(below) == 1 else f"{top}/({'·'.join(below)})"
