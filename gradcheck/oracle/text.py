r"""A judgement in plain text: the table of obligations, and each failure for somebody who never saw our code."""

from __future__ import annotations

import textwrap

from gradcheck.oracle.results import Judgement, Result

__all__ = ["failure_text", "judgement_text"]

_MARKS = {
    "passed": "ok",
    "failed": "FAILED",
    "skipped": "-",
    "expected-failure": "expected",
    "unexpected-pass": "UNEXPECTED PASS",
}


def judgement_text(judgement: Judgement, scripts: bool = True) -> str:
    """The whole judgement."""
    lines = [f"{judgement.target}  ({judgement.declaration})"]
    width = max(len(r.id) for r in judgement.results)
    several = len({r.device for r in judgement.results}) > 1
    for r in judgement.results:
        place = f"  {r.device}" if several else ""
        lines.append(f"  {r.id:{width}}{place}  {_MARKS[r.status]:8} {_remark(r)}".rstrip())
    shown: set[tuple[str, str]] = set()
    for r in judgement.results:
        if r.good:
            continue
        cause = (r.diagnosis.name if r.diagnosis else "", r.device)
        seen_before = cause in shown
        lines += ["", failure_text(r, judgement.target, "", brief=seen_before, with_script=scripts and not seen_before)]
        shown.add(cause)
    if shown:
        lines += ["", "reference", textwrap.indent(judgement.reference.strip(), "  ")]
    bad = sum(not r.good for r in judgement.results)
    counted = sum(r.outcome.examples for r in judgement.results)
    verdict = "conforms" if not bad else f"does not conform: {bad} of {len(judgement.results)} obligations failed"
    lines += ["", f"{judgement.target} {verdict} ({counted} cases, seed {judgement.seed}, {judgement.seconds:.1f} s)"]
    return "\n".join(lines)


def _remark(r: Result) -> str:
    o = r.outcome
    if r.status == "skipped":
        return o.detail
    if r.status == "expected-failure":
        return f"declared: {r.expected}"
    if r.status == "unexpected-pass":
        return f"declared to fail ({r.expected}), but it holds: remove it from expected_failures"
    if r.status == "failed":
        return o.detail
    ratio = f", test ratio {o.ratio:.2g}" if o.ratios else ""
    return f"{o.examples} cases{ratio}" + (f"; {o.note}" if o.note else "")


def failure_text(result: Result, target: str, reference: str, *, brief: bool = False, with_script: bool = True) -> str:
    """One failure: what was demanded, what was seen, why, how to see it again, and where it is written."""
    o = result.outcome
    head = (
        f"[gradcheck] {target}: {result.id} {'does not hold' if result.status == 'failed' else 'was expected to fail'}"
    )
    lines = [head, f"  demanded   {result.statement}"]
    if result.status == "unexpected-pass":
        lines.append(f"  seen       {_remark(result)}")
    elif o.detail:
        lines.append(f"  seen       {o.detail}")
    if o.comparison is not None:
        c = o.comparison
        where = f"sample {c.index[0]}" + (f", coordinate {c.index[1:]}" if len(c.index) > 1 else "")
        lines.append(
            f"             at {where}; difference {abs(c.observed - c.required):.3g}, rounding explains {c.bound:.2g}"
        )
    if o.spec is not None:
        lines.append(f"  problem    batch {o.spec.batch}, latent {o.spec.latent}, {result.dtype} on {result.device}")
    d = result.diagnosis
    if d is not None:
        lines.append(
            _wrapped("  because    ", f"consistent with {d.name}: {d.cause}" if d.name != "unknown" else d.cause)
        )
        if d.declare:
            lines.append(f"             if that is meant, declare {d.declare}")
        if not brief and d.observed:
            lines.append("  gradient   on the field's directions, yours beside the required one:")
            lines += _side_by_side(d.observed, d.required)
        elif brief:
            lines.append("             (explained above)")
    if with_script and result.script:
        lines += ["  reproduce  save and run this:", textwrap.indent(result.script.rstrip(), "    ")]
    if reference:
        lines.append("  reference  " + " ".join(reference.split()))
    return "\n".join(lines)


def _side_by_side(observed: tuple[tuple[str, str], ...], required: tuple[tuple[str, str], ...]) -> list[str]:
    yours, wanted = dict(observed), dict(required)
    names = list(dict.fromkeys([*wanted, *yours]))
    width = max(len(n) for n in names)
    left = max(len(yours.get(n, "0")) for n in names)
    return [f"             {n:{width}}   {yours.get(n, '0'):{left}}   required {wanted.get(n, '0')}" for n in names]


def _wrapped(head: str, body: str) -> str:
    return textwrap.fill(body, 110, initial_indent=head, subsequent_indent=" " * len(head))
