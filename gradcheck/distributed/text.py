"""A trainer's judgement in plain text."""

from __future__ import annotations

import math
import textwrap

from gradcheck.judging.results import Judgement, Result

__all__ = ["judgement_text"]

_MARKS = {
    "passed": "ok",
    "failed": "FAILED",
    "skipped": "-",
    "expected-failure": "expected",
    "unexpected-pass": "UNEXPECTED PASS",
}


def judgement_text(judgement: Judgement) -> str:
    """The table of obligations, and each failure for somebody who never saw our code."""
    lines = [f"{judgement.target}  ({judgement.declaration})"]
    width = max(len(r.id) for r in judgement.results)
    several = len({r.device for r in judgement.results}) > 1
    for r in judgement.results:
        place = f"  {r.device:4}" if several else ""
        lines.append(f"  {r.id:{width}}{place}  {_MARKS[r.status]:8} {_remark(r)}".rstrip())
    shown: set[str] = set()
    for r in judgement.results:
        if not r.good:
            cause = r.diagnosis.name if r.diagnosis else r.id
            lines += ["", *_failure(r, judgement.target, brief=cause in shown)]
            shown.add(cause)
    bad = sum(not r.good for r in judgement.results)
    verdict = "conforms" if not bad else f"does not conform: {bad} of {len(judgement.results)} obligations failed"
    if all(r.status == "skipped" for r in judgement.results):
        verdict = "was not judged: every obligation was skipped"
    lines += ["", f"{judgement.target} {verdict} (seed {judgement.seed}, {judgement.seconds:.1f} s)"]
    return "\n".join(lines)


def _remark(r: Result) -> str:
    if r.status == "expected-failure":
        return f"declared: {r.expected}"
    if r.status == "unexpected-pass":
        return f"declared to fail ({r.expected}), but it holds: remove it from expected_failures"
    if r.status in ("skipped", "failed"):
        return r.outcome.detail
    ratio = f", test ratio {r.outcome.ratio:.2g}" if r.outcome.ratios else ""
    seen = r.outcome.resolution is not None and math.isfinite(r.outcome.resolution)
    return f"{r.outcome.examples} global batches{ratio}" + (
        f", sees errors of {r.outcome.resolution:.0e}" if seen else ""
    )


def _failure(r: Result, target: str, *, brief: bool) -> list[str]:
    head = f"[gradcheck] {target}: {r.id} {'does not hold' if r.status == 'failed' else 'was expected to fail'}"
    lines = [head]
    d = r.diagnosis
    if d is not None and brief:
        lines.append("  because    as above" + (f": {d.name}" if d.name != "unknown" else ""))
    elif d is not None:
        named = f"consistent with {d.name}: {d.cause}" if d.name != "unknown" else d.cause
        lines.append(_wrapped("  because    ", named))
        if d.declare:
            lines.append(f"             if that is meant, declare {d.declare}")
    lines.append(_wrapped("  demanded   ", r.statement))
    if r.outcome.detail:
        lines.append(_wrapped("  seen       ", r.outcome.detail))
    if r.outcome.note:
        lines.append(_wrapped("  problem    ", f"{r.outcome.note}; {r.dtype} on {r.device}"))
    if d is not None and not brief and d.observed:
        word, of = d.rows
        lines.append(f"  {word:9}  {of}, yours beside the required one:")
        width, left = (max(len(row[i]) for row in d.observed) for i in (0, 1))
        wanted = dict(d.required)
        lines += [
            f"             {name:{width}}   {yours:{left}}   required {wanted[name]}" for name, yours in d.observed
        ]
    if r.script and not brief:
        lines += ["  reproduce  run this:", textwrap.indent(r.script, "    ")]
    return lines


def _wrapped(head: str, body: str) -> str:
    return textwrap.fill(body, 80, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False)
