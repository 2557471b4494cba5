"""The one family of errors that bad input raises."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

__all__ = ["GradcheckError", "InputError", "did_you_mean", "forgiven", "one_of", "suggestions"]


class GradcheckError(Exception):
    """Base class of everything that this package raises on purpose."""


class InputError(GradcheckError, ValueError):
    """An argument is not what it must be.

    The message names the argument, what was given and what is wanted; several mistakes come together,
    one a line.
    """

    def __init__(self, *problems: tuple[str, str, str]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"[gradcheck] {name}: got {got}; wanted {wanted}" for name, got, wanted in problems))


_LISTED = 12
"""Names that a message lists; of more, only those that are like the given one."""


def _key(name: str) -> str:
    """A name without what people write differently: case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_\-]+", "", name).lower()


def forgiven(name: str, known: Iterable[str]) -> str:
    """The one known name that this one is but for case, spaces, hyphens and underscores; else the name as it is.

    A name with letters in another order is not taken for the one that was meant: a judge must not guess what is
    declared. :func:`did_you_mean` suggests it.
    """
    names = list(dict.fromkeys(known))
    if name in names or not isinstance(name, str):
        return name
    same = [one for one in names if _key(one) == _key(name)]
    return same[0] if len(same) == 1 else name


def suggestions(name: str, known: Iterable[str]) -> list[str]:
    """The known names that are most like it, at most three, best first, and none that is much less like it."""
    scores: dict[str, float] = {}
    for one in known:
        a, b = _key(str(name)), _key(one)
        whole = difflib.SequenceMatcher(None, a, b).ratio()
        scores[one] = 1.0 if sorted(a) == sorted(b) else whole  # two letters exchanged
    best = max(scores.values(), default=0.0)
    near = [one for one in scores if scores[one] >= max(0.5 if len(_key(str(name))) < 4 else 0.6, best - 0.15)]
    return sorted(near, key=lambda one: -scores[one])[:3]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'X', 'Y' or 'Z'?"`` for the at most three names that are most like it, or nothing."""
    near = [repr(one) for one in suggestions(name, known)]
    return f"; did you mean {' or '.join(filter(None, (', '.join(near[:-1]), near[-1])))}?" if near else ""


def one_of(name: str, known: Iterable[str], elsewhere: str, write: Callable[[str], str] = str) -> str:
    """What is wanted in place of an unknown name.

    Args:
        name: what was given.
        known: the names that there are.
        elsewhere: how to see all of them where they are too many to list here.
        write: how the listed ones are written.
    """
    names = list(dict.fromkeys(known))
    listed = f"one of {', '.join(map(write, names))}" if len(names) <= _LISTED else elsewhere
    return listed + did_you_mean(name, names)
