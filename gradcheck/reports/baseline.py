r"""A report compared with an earlier one: what has become worse, and what better.

Worse is
  - a target or an obligation that is missing now;
  - a target that was judged and could not be now;
  - an obligation that held and fails now, declared or not;
  - an obligation that was checked and is skipped now;
  - an obligation that holds still, with a test ratio above :data:`NOTICEABLE` that is more than :data:`GROWTH` times
    the earlier one.

A test ratio is a difference in units of u·e, which bounds the rounding error of *one* evaluation order to first
order.  Up to 1, then, it says nothing but in which order a machine happened to add, and may change with a version of
torch, a processor or a seed.  Above 1, and doubled, the implementation has lost at least one more bit than rounding
explains; since what passes ends at 4, a slow loss of precision is told before it fails.  The ratio of an obligation
that fails is that of the smallest failing problem, and is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradcheck.errors import InputError
from gradcheck.reports.json_report import JSON_VERSION, SCHEMA_NAME, decoded

__all__ = ["GROWTH", "NOTICEABLE", "Regression", "compare", "load", "notes"]

GROWTH = 2.0
"""A test ratio that grew by more than this factor is worse …"""

NOTICEABLE = 1.0
"""… if it is now at least this large."""

_HOLDS = ("passed", "unexpected-pass")
_FAILS = ("failed", "expected-failure")
_STATUSES = (*_HOLDS, *_FAILS, "skipped", "unjudged")
_SILENT = ("skipped", "unjudged")
_READABLE = (1, 2, JSON_VERSION)
"""Version 1 had no ``unjudged``, ``seconds`` and ``meaning``, and 1 and 2 no ``resolution``, which are not compared;
version 1's targets were all judged."""


@dataclass(frozen=True)
class Regression:
    """One thing that is worse than before.

    Attributes:
        kind: ``target-missing``, ``target-unjudged``, ``obligation-missing``, ``fails``, ``not-checked`` or ``ratio``.
        target: the implementation.
        obligation: its obligation; empty if the whole target is missing.
        device: where; empty likewise.
        text: what happened, in a clause.
    """

    kind: str
    target: str
    obligation: str
    device: str
    text: str

    def __str__(self) -> str:
        where = f"{self.target}: {self.obligation} on {self.device}" if self.obligation else self.target
        return f"{where} {self.text}"


@dataclass(frozen=True)
class _Seen:
    """What a comparison needs to know about an obligation."""

    status: str
    ratio: float
    detail: str

    @property
    def holds(self) -> bool:
        return self.status in _HOLDS

    @property
    def fails(self) -> bool:
        return self.status in _FAILS


_Targets = dict[str, dict[tuple[str, str], _Seen]]  # target → (device, obligation) → what was seen


def load(path: str | Path) -> dict[str, Any]:
    """Read a report that ``gradcheck check --json`` wrote.

    Raises:
        InputError: the file cannot be read, is no JSON, or not such a report of this version.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(("baseline", f"{path} ({error.strerror})", "a file that can be read")) from None
    except (ValueError, RecursionError) as error:  # no UTF-8 or no JSON
        raise InputError(("baseline", f"{path} ({error})", f"a JSON report {SCHEMA_NAME!r}")) from None
    _targets(report, str(path))
    loaded: dict[str, Any] = report
    return loaded


def compare(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[Regression]:
    """What is worse now than earlier; empty if nothing is.

    Raises:
        InputError: one of them is not a report of this version.
    """
    return list(_regressions(_targets(earlier, "the earlier report"), _targets(now, "the report")))


def notes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is better or otherwise new, and what makes the two hard to compare, a sentence each.

    Raises:
        InputError: one of them is not a report of this version.
    """
    before, after = _targets(earlier, "the earlier report"), _targets(now, "the report")
    return [*_differing_settings(earlier, now), *_improvements(before, after)]


def _regressions(before: _Targets, after: _Targets) -> Iterator[Regression]:
    for target, obligations in before.items():
        if target not in after:
            yield Regression("target-missing", target, "", "", "was judged, and is missing now")
            continue
        reason = _unjudged(after[target])
        if reason is not None:
            if _unjudged(obligations) is None:
                yield Regression("target-unjudged", target, "", "", f"was judged, and could not be now: {reason}")
            continue
        for (device, obligation), old in obligations.items():
            found = _worse(old, after[target].get((device, obligation)))
            if found is not None:
                yield Regression(found[0], target, obligation, device, found[1])


def _unjudged(obligations: Mapping[tuple[str, str], _Seen]) -> str | None:
    """Why a target could not be judged; ``None`` if it was."""
    return next((seen.detail for seen in obligations.values() if seen.status == "unjudged"), None)


def _worse(old: _Seen, new: _Seen | None) -> tuple[str, str] | None:
    """The kind and the clause, or ``None`` if nothing is worse."""
    if new is None:
        return None if old.status in _SILENT else ("obligation-missing", "was checked, and is missing now")
    if new.status == "skipped":
        return None if old.status in _SILENT else ("not-checked", f"was checked, and is not now: {new.detail}")
    if old.holds and new.fails:
        declared = ", as declared" if new.status == "expected-failure" else ""
        return "fails", f"held, and fails now{declared}: {new.detail}"
    if old.holds and new.holds and new.ratio > NOTICEABLE and new.ratio > GROWTH * old.ratio:
        return "ratio", f"lost precision: its worst test ratio was {old.ratio:.2g} and is {new.ratio:.2g}"
    return None


def _improvements(before: _Targets, after: _Targets) -> Iterator[str]:
    for target, obligations in after.items():
        if target not in before:
            yield f"{target} is new"
            continue
        if _unjudged(before[target]) is not None and _unjudged(obligations) is None:
            yield f"{target} could not be judged, and is now"
            continue
        for (device, obligation), new in obligations.items():
            found = _news(before[target].get((device, obligation)), new)
            if found:
                yield f"{target}: {obligation} on {device} {found}"


def _news(old: _Seen | None, new: _Seen) -> str:
    if new.status in _SILENT:
        return ""
    if old is None or old.status == "skipped":
        return f"was not checked, and {'holds' if new.holds else 'fails'} now"
    if old.fails and new.holds:
        return "failed, and holds now"
    if old.holds and new.holds and old.ratio > NOTICEABLE and old.ratio > GROWTH * new.ratio:
        return f"gained precision: its worst test ratio was {old.ratio:.2g} and is {new.ratio:.2g}"
    return ""


def _differing_settings(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Other problems give other test ratios, which one should know who reads the comparison."""
    before, after = earlier["settings"], now["settings"]
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            yield f"the setting {name} was {before.get(name)!r} and is {after.get(name)!r}"


def _targets(report: Any, where: str) -> _Targets:
    """The report, looked up by target, device and obligation; targets of the same name are numbered."""
    _check_schema(report, where)
    out: _Targets = {}
    try:
        assert isinstance(report["settings"], dict)
        for target in report["targets"]:
            out[_unused(target["target"], out)] = {(o["device"], o["id"]): _seen(o) for o in target["obligations"]}
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        what = f"{where}, in which something is missing or wrong ({type(error).__name__}: {error})"
        raise InputError(
            ("baseline", what, f"a JSON report as {SCHEMA_NAME!r} version {JSON_VERSION} describes it")
        ) from None
    return out


def _check_schema(report: Any, where: str) -> None:
    told = report.get("schema") if isinstance(report, Mapping) else None
    if not isinstance(told, Mapping) or told.get("name") != SCHEMA_NAME:
        what = f"{where}, which is a report {told['name']!r}" if isinstance(told, Mapping) and "name" in told else where
        raise InputError(("baseline", what, f"a JSON report {SCHEMA_NAME!r}, as gradcheck check --json writes it"))
    if told.get("version") not in _READABLE:
        wanted = f"version {JSON_VERSION}: write it again with this version of gradcheck"
        raise InputError(("baseline", f"{where}, schema version {told.get('version')!r}", wanted))


def _unused(name: str, taken: Mapping[str, object]) -> str:
    if name not in taken:
        return name
    n = 2
    while f"{name} ({n})" in taken:
        n += 1
    return f"{name} ({n})"


def _seen(obligation: Mapping[str, Any]) -> _Seen:
    status = obligation["status"]
    if status not in _STATUSES:
        raise ValueError(f"unknown status {status!r}")
    return _Seen(status, decoded(obligation["ratio"]), str(obligation["detail"]))
