r"""A judgement in plain text: the table of obligations, and each failure for somebody who never saw our code."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from derivations.writing.wrapping import wrap_formula, wrap_words
from gradcheck.judging.isolation.words import cut
from gradcheck.judging.results import Diagnosis, Judgement, Raised, Result, Status
from gradcheck.reports.shared import remark, verdict

__all__ = [
    "UNDECLARED",
    "UNEXPLAINED",
    "Save",
    "brief_text",
    "failure_text",
    "judgement_text",
    "verdict_text",
]

_MARKS: dict[Status, str] = {
    "passed": "ok",
    "failed": "FAILED",
    "skipped": "-",
    "expected-failure": "expected",
    "unexpected-pass": "UNEXPECTED PASS",
    "unjudged": "UNJUDGED",
}
_PRINTED = 1000
"""Characters of what an implementation printed that was judged all the same."""

_WIDTH = 80
_VERBS: dict[Status, str] = {
    "failed": "does not hold",
    "unjudged": "could not be judged",
    "unexpected-pass": "was expected to fail",
}


UNEXPLAINED = ("unknown", "sample-factor")
"""Diagnoses that say what the gradient is, and not what to do."""

UNDECLARED = (
    "your code follows conventions that are not declared (which step, sum or mean, a clip of its own, latents of one "
    "rank, whole pairs or groups): `gradcheck list --options` shows what to declare"
)
"""What is said beside them."""


Save = Callable[[str, Result], Path | None]
"""Writes a failure's script to a file, and says which; ``None`` where it cannot be written."""


def judgement_text(
    judgement: Judgement,
    scripts: bool = True,
    *,
    verbose: bool = True,
    several: bool = False,
    save: Save | None = None,
) -> str:
    """The judgement for a terminal.

    Args:
        judgement: what was found.
        scripts: print those that reproduce failures.
        verbose: every failure in full; else the first one, and the others in the table alone.
        several: it is one of several, so that, unless verbose, only what fails is listed.
        save: writes the scripts to files, so that one line to run is printed in their place.
    """
    shown_rows = [r for r in judgement.results if verbose or not several or not r.good]
    declaration = f"  ({judgement.declaration})" if judgement.declaration else ""
    lines = [f"{judgement.subject}{declaration}", *_table(shown_rows, verbose)]
    bad = [r for r in judgement.results if not r.good and r.status != "unjudged"]
    shown: set[tuple[str, str]] = set()
    for r in bad if verbose else bad[:1]:
        cause = (r.diagnosis.name if r.diagnosis else "", r.device)
        seen_before = cause in shown
        with_script = scripts and not seen_before
        lines += [
            "",
            failure_text(r, judgement.subject, "", brief=seen_before, with_script=with_script, save=save),
        ]
        shown.add(cause)
    if len(bad) > 1 and not verbose:
        others = f"{len(bad) - 1} other{'s' if len(bad) > 2 else ''}"
        lines += ["", f"  {others} above; everything in full: --verbose, one of them: --only {bad[1].id}"]
    if shown and (verbose or not several):
        lines += ["", "reference", textwrap.indent(judgement.reference.strip(), "  ")]
    if judgement.printed.strip():
        printed = judgement.printed if judgement.unjudged else cut(judgement.printed, _PRINTED)
        lines += ["", "it printed", textwrap.indent(printed.rstrip(), "  ")]
    counted = sum(r.outcome.examples for r in judgement.results)
    lines += ["", f"{verdict_text(judgement)} ({counted} cases, seed {judgement.seed}, {judgement.seconds:.1f} s)"]
    return "\n".join(lines)


def verdict_text(judgement: Judgement) -> str:
    """The implementation's name and what became of it, in a line."""
    told = f"{judgement.subject} {verdict(judgement)}"
    bad = [r for r in judgement.results if not r.good and r.status != "unjudged"]
    failing = f"{len(bad)} of {len(judgement.results)} obligations failed"
    if bad:
        return f"{told}; {failing}" if judgement.unjudged else f"{told}: {failing}"
    expected = dict.fromkeys(r.id for r in judgement.results if r.status == "expected-failure")
    return f"{told}: {', '.join(expected)}" if verdict(judgement) == "fails as declared" else told


def _table(results: Sequence[Result], verbose: bool) -> list[str]:
    width = max((len(r.id) for r in results), default=0)
    several = len({r.device for r in results}) > 1
    lines = []
    for r in results:
        place = f"  {r.device}" if several else ""
        cause = f"  [{r.diagnosis.name}]" if not verbose and r.diagnosis is not None else ""
        lines.append(_wrapped(f"  {r.id:{width}}{place}  {_MARKS[r.status]:8} ", f"{_remark(r)}{cause}"))
    return lines


def brief_text(judgement: Judgement) -> str:
    """One row: the name, the verdict, and the cause or what failed."""
    told = verdict_text(judgement).removeprefix(judgement.subject).strip()
    bad = [r for r in judgement.results if not r.good and r.status != "unjudged"]
    causes = list(dict.fromkeys(r.diagnosis.name for r in bad if r.diagnosis and r.diagnosis.name != "unknown"))
    word = told.partition(":")[0].partition(";")[0]
    why = judgement.unjudged or ", ".join(causes) or ", ".join(dict.fromkeys(r.id for r in bad))
    return f"{judgement.subject}: {word}" + (f" ({why})" if why else "")


def _remark(r: Result) -> str:
    o = r.outcome
    if r.expected and r.status != o.status:
        return remark(r)
    if r.status != "passed":
        return o.detail
    ratio = f", test ratio {o.ratio:.2g}" if o.ratios else ""
    seen = o.resolution is not None and math.isfinite(o.resolution)
    sees = f", sees errors of {o.resolution:.0e}" if seen else ""
    return f"{o.examples} cases{ratio}{sees}" + (f"; {o.note}" if o.note else "")


def failure_text(
    result: Result,
    subject: str,
    reference: str,
    *,
    brief: bool = False,
    with_script: bool = True,
    save: Save | None = None,
) -> str:
    """One failure: why, what was demanded and seen, how to see it again, and where it is written."""
    o = result.outcome
    head = f"[gradcheck] {subject}: {result.id} {_VERBS[result.status]}"
    d = result.diagnosis
    lines = [head]
    if d is not None:  # first what a reader wants to know
        lines.append(_wrapped("  because    ", _cause(d)))
        if brief:
            lines.append("             (explained above)")
    if not brief and (d.name in UNEXPLAINED if d is not None else isinstance(o, Raised) and bool(o.on)):
        lines.append(_wrapped("  perhaps    ", UNDECLARED))
    lines.append(_wrapped("  demanded   ", result.statement))
    if result.status == "unexpected-pass":
        lines.append(f"  seen       {_remark(result)}")
    elif o.detail:
        lines.append(_wrapped("  seen       ", o.detail))
    if o.comparison is not None:
        c = o.comparison
        where = f"sample {c.index[0]}" + (f", coordinate {c.index[1:]}" if len(c.index) > 1 else "")
        apart = f"difference {abs(c.observed - c.required):.3g}, rounding explains {c.bound:.2g}"
        lines.append(_wrapped(" " * 13, f"at {where}; {apart}"))
        if o.meaning:
            lines.append(_wrapped(" " * 13, o.meaning))
    if o.spec is not None:
        lines.append(f"  problem    batch {o.spec.batch}, latent {o.spec.latent}, {result.dtype} on {result.device}")
    elif o.note and result.status == "failed":
        lines.append(_wrapped("  problem    ", f"{o.note}, {result.dtype} on {result.device}"))
    if d is not None and not brief and d.observed:
        word, of = d.rows
        lines.append(f"  {word:9}  {of}, yours beside the required one:")
        lines += _side_by_side(d.observed, d.required)
    if with_script and result.script:
        file = save(subject, result) if save is not None and not result.shell else None
        if file is not None:
            lines.append(f"  reproduce  python {file}")
        else:
            how = "run this:" if result.shell else "save and run this:"
            lines += [f"  reproduce  {how}", textwrap.indent(result.script.rstrip(), "    ")]
    if reference:
        lines.append(_wrapped("  reference  ", " ".join(reference.split())))
    return "\n".join(lines)


def _cause(d: Diagnosis) -> str:
    if d.name == "unknown":
        return d.cause
    meant = f"if that is meant, declare {d.declare}"
    if d.name.startswith("convention:") and d.declare:  # more often a declaration that is missing than a mistake
        return f"{d.cause}; {meant} ({d.name})"
    return f"consistent with {d.name}: {d.cause}" + (f"; {meant}" if d.declare else "")


def _side_by_side(observed: tuple[tuple[str, str], ...], required: tuple[tuple[str, str], ...]) -> list[str]:
    yours, wanted = dict(observed), dict(required)
    names = list(dict.fromkeys([*wanted, *yours]))
    width = max(len(n) for n in names)
    left = max(len(yours.get(n, "0")) for n in names)
    lines = []
    for n in names:
        mine, needed = yours.get(n, "0"), wanted.get(n, "0")
        beside = f"{mine}   right" if mine == needed else f"{mine:{left}}   required {needed}"
        lines.append(f"             {n:{width}}   {beside}")
    if max(map(len, lines)) <= _WIDTH:
        return lines
    stacked = []
    for n in names:
        stacked.append(f"    {n}")
        mine, needed = yours.get(n, "0"), wanted.get(n, "0")
        for word, form in (("right", needed),) if mine == needed else (("yours", mine), ("required", needed)):
            first, *rest = wrap_formula(form, _WIDTH - 18)
            stacked += [f"      {word:8}    {first}", *(" " * 18 + line for line in rest)]
    return stacked


def _wrapped(head: str, body: str) -> str:
    if len(head) > _WIDTH // 2:  # a long name: goes on below it
        return "\n".join(wrap_words(body, _WIDTH, head, " " * 6)).rstrip()
    return "\n".join(wrap_words(body, _WIDTH, head)).rstrip()
