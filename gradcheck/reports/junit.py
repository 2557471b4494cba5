"""JUnit XML: a test suite for each implementation, a test case for each obligation."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from gradcheck.judging.results import Judgement, Result
from gradcheck.oracle.subject import Settings
from gradcheck.reports.shared import clean, environment, failures, remark, several_devices, timestamp
from gradcheck.reports.text import failure_text

__all__ = ["to_junit"]


def to_junit(judgements: Sequence[Judgement], settings: Settings) -> str:
    """The report as JUnit XML; an expected failure counts as skipped, an unexpected pass as a failure.

    An implementation that could not be judged is an error of the obligation at which that was found.
    """
    root = Element("testsuites", {"name": "gradcheck", **_counts(judgements)})
    versions = {k: v for k, v in environment(judgements).items() if isinstance(v, str)}
    for judgement in judgements:
        root.append(_suite(judgement, settings, versions))
    indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _counts(judgements: Sequence[Judgement]) -> dict[str, str]:
    results = [r for j in judgements for r in j.results]
    return {
        "tests": str(len(results)),
        "failures": str(sum(r.status != "unjudged" for j in judgements for r in failures(j))),
        "errors": str(sum(r.status == "unjudged" for r in results)),
        "skipped": str(sum(r.status in ("skipped", "expected-failure") for r in results)),
        "time": f"{sum(j.seconds for j in judgements):.3f}",
    }


def _suite(judgement: Judgement, settings: Settings, versions: dict[str, str]) -> Element:
    when = timestamp().removesuffix("+00:00")
    suite = Element("testsuite", {"name": clean(judgement.subject), **_counts([judgement]), "timestamp": when})
    properties = SubElement(suite, "properties")
    told = {
        "declaration": judgement.declaration,
        "seed": str(judgement.seed),
        "max_examples": str(settings.max_examples),
    }
    for name, value in {**told, **versions}.items():
        SubElement(properties, "property", {"name": name, "value": clean(value)})
    several = several_devices(judgement)
    for result in judgement.results:
        suite.append(_case(result, judgement, several))
    if judgement.printed:
        SubElement(suite, "system-out").text = clean(judgement.printed)
    return suite


def _case(result: Result, judgement: Judgement, several: bool) -> Element:
    name = f"{result.id}[{result.device}]" if several else result.id
    where = {"classname": clean(judgement.subject), "name": clean(name), "time": f"{result.seconds:.3f}"}
    case = Element("testcase", where)
    if result.status == "unjudged":
        attributes = {"message": clean(f"could not be judged: {remark(result)}"), "type": result.status}
        SubElement(case, "error", attributes).text = clean(result.outcome.detail)
    elif not result.good:
        attributes = {"message": clean(remark(result) or result.statement), "type": result.status}
        SubElement(case, "failure", attributes).text = clean(
            failure_text(result, judgement.subject, judgement.reference)
        )
    elif result.status != "passed":
        SubElement(case, "skipped", {"message": clean(remark(result)), "type": result.status})
    elif result.outcome.note:
        SubElement(case, "system-out").text = clean(result.outcome.note)
    return case
