"""Laws of the reports: nothing that fails is left out of any format, and nothing that users name breaks one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import jsonschema
import pytest
import torch

from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.conventions import declare
from gradcheck.errors import InputError
from gradcheck.judging.results import KERNEL, Diagnosis, Judgement, Outcome, Result, Status
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec
from gradcheck.reports import (
    Directions,
    compare,
    directions_of,
    failure_directions,
    load,
    notes,
    schema,
    to_html,
    to_json,
    to_junit,
    to_markdown,
)
from gradcheck.reports import markdown as markdown_module
from gradcheck.reports.json_report import decoded, encoded
from gradcheck.reports.plots import plane
from gradcheck.reports.text import judgement_text
from gradcheck.rounding.compare import Comparison

HOSTILE = (
    '<script src="https://evil.example/x.js">alert(1)</script>|`*_[x](https://evil.example)\x1b[31m\n## "&amp;\ud800'
)
SETTINGS = Settings(max_examples=3)
STATUSES: tuple[Status, ...] = get_args(Status)


def result(id_: str, status: Status = "passed", **changes: Any) -> Result:
    """A made-up obligation."""
    raw = {"expected-failure": "failed", "unexpected-pass": "passed"}.get(status, status)
    outcome = {
        "passed": Outcome("passed", 10, 0.5, ratios=(0.0, 0.5, 1e-7)),
        "failed": Outcome(
            "failed",
            2,
            math.inf,
            f"observed nan at {id_}",
            Comparison(math.inf, (1, 2), math.nan, 1.0, 1e-15, 1.0, 1e-15),
            Spec(2, (3,), 7),
            ratios=(0.1, math.inf),
        ),
        "skipped": Outcome("skipped", detail=f"{id_} does not apply"),
        "unjudged": Outcome("unjudged", detail=f"{id_} raised KeyError: 'x'"),
    }[raw]
    base = Result(id_, f"{id_} is demanded", "mistakes", outcome, "cpu", "float64")
    if raw == "failed":
        diagnosis = Diagnosis("factor-2", "it is twice", "factor=2", (("ε", "2 A"), ("x_t", "1")), (("ε", "A"),))
        base = replace(base, diagnosis=diagnosis, script="import torch\nprint('``` </details>')\n")
    if status in ("expected-failure", "unexpected-pass"):
        base = replace(base, expected="known for long")
    return replace(base, **changes)


def judgement(*results: Result, subject: str = "mine", **changes: Any) -> Judgement:
    return replace(Judgement(subject, "'awm', beta=1.0", results, "@article{x}", 0, 1.5), **changes)


def twice(case: Case) -> torch.Tensor:
    return 2 * entry("flow_grpo", "mean").loss(case).mean()


TWICE = Subject(twice, "twice", declare("flow_grpo", log_prob_reduction="mean"))


@cache
def real() -> Judgement:
    return judge(TWICE, SETTINGS, only=("determinism", "gradient", "value", "clip"))


def every_status() -> Judgement:
    return judgement(*(result(f"law-{status}", status) for status in STATUSES))


def hostile() -> Judgement:
    bad = result("gradient", "failed")
    assert bad.diagnosis is not None
    diagnosis = Diagnosis(HOSTILE, HOSTILE, HOSTILE, ((HOSTILE, HOSTILE),), ((HOSTILE, HOSTILE),))
    bad = replace(bad, outcome=replace(bad.outcome, detail=HOSTILE), diagnosis=diagnosis, script=HOSTILE)
    told = result("told", "expected-failure", expected=HOSTILE)
    skipped = replace(result("skipped", "skipped"), outcome=Outcome("skipped", detail=HOSTILE, note=HOSTILE))
    return judgement(bad, told, skipped, subject=HOSTILE, declaration=HOSTILE, reference=HOSTILE, printed=HOSTILE)


def two_devices() -> Judgement:
    cuda = [replace(r, device="cuda") for r in every_status().results]
    return judgement(*every_status().results, *cuda)


EXAMPLES: dict[str, Callable[[], list[Judgement]]] = {
    "none": list,
    "good": lambda: [judgement(result("gradient"), result("kl", "skipped"))],
    "every status": lambda: [every_status()],
    "unjudged": lambda: [judgement(result("gradient"), result("kl", "unjudged"), printed="step 1\n")],
    "two devices": lambda: [two_devices()],
    "several": lambda: [every_status(), judgement(result("gradient"), subject="other")],
    "real": lambda: [real()],
    "hostile": lambda: [hostile()],
    "no obligations": lambda: [judgement()],
}


@pytest.fixture(params=EXAMPLES)
def judgements(request: pytest.FixtureRequest) -> list[Judgement]:
    return EXAMPLES[request.param]()


def results(judgements: list[Judgement]) -> Iterator[Result]:
    for j in judgements:
        yield from j.results


@pytest.mark.parametrize("kernel", KERNEL)
def test_a_wrong_gradient_conforms_in_no_report_though_it_is_declared(kernel: str) -> None:
    """A loss's and a trainer's; what else holds does not make it right, alone or among others."""
    declared = judgement(result(kernel, "expected-failure", expected="known"), result("finite"))
    assert declared.holds
    for text in (judgement_text(declared), to_html([declared], SETTINGS), to_markdown([declared], SETTINGS)):
        assert "fails as declared" in text
        assert "conforms" not in text
    both = [declared, judgement(result(kernel), subject="other")]
    for text in (to_html(both, SETTINGS), to_markdown(both, SETTINGS)):
        assert "1 of 2 implementations fails as declared" in text


def test_the_schema_knows_each_status() -> None:
    told = schema()["$defs"]["obligation"]["properties"]["status"]["enum"]
    assert set(told) == set(STATUSES)


# -------------------------------------------------------------------------------------------------- JSON


def test_json_is_valid_round_trips_and_follows_its_schema(judgements: list[Judgement]) -> None:
    report = to_json(judgements, SETTINGS)
    text = json.dumps(report, allow_nan=False, ensure_ascii=False)
    assert json.loads(text.encode()) == report
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(report)
    assert report["holds"] == (bool(judgements) and all(j.holds for j in judgements))


def written(text: str) -> str:
    """Text as a UTF-8 file can hold it."""
    return text.encode("utf-8", "backslashreplace").decode()


def test_json_holds_everything_that_was_found(judgements: list[Judgement]) -> None:
    told = [o for t in to_json(judgements, SETTINGS)["targets"] for o in t["obligations"]]
    for r, o in zip(results(judgements), told, strict=True):
        assert (o["id"], o["status"], o["device"], o["script"]) == (r.id, r.status, r.device, written(r.script))
        assert (o["seconds"], o["meaning"]) == (r.seconds, r.outcome.meaning)
        assert [decoded(x) for x in o["ratios"]] == list(r.outcome.ratios)
        assert o["resolution"] == (None if r.outcome.resolution is None else encoded(r.outcome.resolution))
        if r.diagnosis is not None:
            rows = {row["direction"]: (row["observed"], row["required"]) for row in o["diagnosis"]["decomposition"]}
            for name, formula in r.diagnosis.observed:
                assert rows[written(name)][0] == written(formula)


def test_every_field_of_the_results_is_in_the_schema() -> None:
    parts = schema()["$defs"]
    elsewhere = {"outcome", "results", "spec", "observed", "required"}  # inlined, or under another name
    elsewhere |= {"subject"}  # a report's word for it is target
    elsewhere |= {"shell", "rows"}  # how a terminal words the script and the decomposition
    elsewhere |= {"shown_alone"}  # what the search for a cause tells its caller
    answers = {"lost", "reason"}  # of a comparison that somebody asked for, which no report has
    for part, classes in {
        "settings": [Settings],
        "target": [Judgement],
        "obligation": [Result, Outcome],
        "comparison": [Comparison],
        "problem": [Spec],
        "diagnosis": [Diagnosis],
    }.items():
        names = {f.name for c in classes for f in fields(c)}
        wanted = names - (elsewhere if part != "comparison" else answers)
        assert wanted <= set(parts[part]["properties"]), part


def test_the_schema_allows_no_unknown_field() -> None:
    def objects(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if "properties" in node and node.get("type") == "object":
                yield node
            for child in node.values():
                yield from objects(child)

    for node in objects(schema()):
        assert node["additionalProperties"] is False
        assert set(node["required"]) == set(node["properties"])
    report = to_json([every_status()], SETTINGS)
    report["targets"][0]["obligations"][0]["colour"] = "blue"
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate(report, schema())


def test_every_field_of_the_schema_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs" / "oracle-report.md").read_text(encoding="utf-8")
    for part in (schema(), *schema()["$defs"].values()):
        for name in part.get("properties", {}):
            assert f"`{name}`" in page, name


@pytest.mark.parametrize("x", [0.0, -1.5, 1e-320, math.inf, -math.inf, math.nan])
def test_numbers_survive_json(x: float) -> None:
    back = decoded(json.loads(json.dumps(encoded(x), allow_nan=False)))
    assert back == x or (math.isnan(back) and math.isnan(x))


# -------------------------------------------------------------------------------------------------- HTML


class _Loads(HTMLParser):
    """Everything in a page that would load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []
        self.policy = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""
        if tag in ("script", "link", "img", "iframe", "object", "embed", "base", "form", "video", "audio"):
            self.found.append(tag)
        for name, value in attrs:
            local = name in ("href", "xlink:href") and (value or "").startswith("#")
            if (name in ("src", "srcset", "href", "xlink:href", "action", "data") and not local) or name[:2] == "on":
                self.found.append(f"{tag} {name}={value}")
            self.found += re.findall(r"url\((?!#)[^)]*", value or "") if name == "style" else []
            self.ids += [value or ""] if name == "id" else []


def page_of(judgements: list[Judgement]) -> str:
    return to_html(judgements, SETTINGS)


def test_html_loads_and_runs_nothing(judgements: list[Judgement]) -> None:
    page = page_of(judgements)
    parser = _Loads()
    parser.feed(page)
    assert parser.found == []
    assert parser.policy.startswith("default-src 'none'")
    assert len(parser.ids) == len(set(parser.ids))
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_html_is_well_formed_and_tells_every_obligation(judgements: list[Judgement]) -> None:
    root = ElementTree.fromstring(page_of(judgements).removeprefix("<!DOCTYPE html>\n"))
    tables = [t for t in root.iter("table") if t.get("class") == "obligations"]
    rows = [row for t in tables for row in t.findall("tbody/tr")]
    assert [next(row.iter("b")).text for row in rows] == [r.id for r in results(judgements)]
    failing = [d for d in root.iter("details") if d.get("class") == "failure"]
    for details, r in zip(failing, [r for r in results(judgements) if not r.good], strict=True):
        text = "".join(details.itertext())
        assert r.id in text
        assert r.statement in text
        assert r.diagnosis is None or r.diagnosis.declare.splitlines()[0][:20] in text
    ends = {a.get("href", "").removeprefix("#") for a in root.iter("a")}
    assert ends <= {e.get("id") for e in root.iter("section")}


def test_html_says_the_verdict_first() -> None:
    assert "<h1>✗ mine does not conform</h1>" in page_of([judgement(result("gradient", "failed"))])
    assert "<h1>✗ mine could not be judged</h1>" in page_of([every_status()])
    assert "<h1>✓ mine conforms</h1>" in page_of([judgement(result("gradient"))])
    assert "<h1>✗ nothing was judged</h1>" in page_of([])


def test_what_could_not_be_judged_is_in_every_format() -> None:
    bad = judgement(result("gradient"), result("kl", "unjudged"), printed="step 1 of 50\n")
    told = to_json([bad], SETTINGS)
    assert (told["holds"], told["targets"][0]["unjudged"]) == (False, "kl raised KeyError: 'x'")
    for page in (page_of([bad]), to_markdown([bad], SETTINGS), to_junit([bad], SETTINGS)):
        assert "could not be judged" in page
        assert "raised KeyError: " in page
        assert "step 1 of 50" in page
    page = to_markdown([bad, judgement(result("kl", "failed"))], SETTINGS)
    assert "1 of 2 implementations does not conform, 1 of 2 implementations could not be judged" in page


def test_html_draws_test_ratios_and_directions() -> None:
    drawn = failure_directions(TWICE, SETTINGS, real())
    assert set(drawn) == {("twice", "gradient", "cpu")}  # the first of its cause
    page = to_html([real()], SETTINGS, drawn)
    assert page.count("<svg") == 2
    assert "v_θ − v_old" in page
    assert "passes up to 4" in page
    assert "rdf:" not in page


def test_directions_are_the_gradients() -> None:
    found = directions_of(TWICE, SETTINGS, next(r for r in real().results if r.id == "gradient"))
    assert found is not None
    observed, required = torch.tensor(found.observed), torch.tensor(found.required)
    torch.testing.assert_close(observed, 2 * required)
    assert {name for name, _ in found.named} >= {"ε", "v_θ − v_old"}


def test_directions_are_left_out_where_there_are_none() -> None:
    assert directions_of(TWICE, SETTINGS, result("determinism", "skipped")) is None
    right = replace(TWICE, function=lambda case: twice(case) / 2)
    assert directions_of(right, SETTINGS, next(r for r in real().results if r.id == "gradient")) is None


@pytest.mark.parametrize(
    ("observed", "required"),
    [
        ((2.0, 0.0), (1.0, 0.0)),
        ((0.0, 0.0), (1.0, 1.0)),
        ((1.0, 0.0), (0.0, 0.0)),
        ((1e9, 1.0), (1.0, 0.0)),
        ((3.0,), (-1.0,)),
    ],
)
def test_degenerate_planes_are_drawn(observed: tuple[float, ...], required: tuple[float, ...]) -> None:
    drawn = plane(Directions(observed, required, (("ε", (0.0,) * len(observed)), ("x_t", required))), "p")
    text = "".join(ElementTree.fromstring(drawn).itertext())
    assert "yours" in text
    assert "required" in text
    assert "nan" not in drawn


def test_the_label_of_a_gradient_that_is_0_lies_on_no_arrow() -> None:
    drawn = plane(Directions((0.0, 0.0), (1.0, 0.0), (("ε", (-1.0, 0.0)), ("x_t", (0.0, 1.0)))), "p")
    heights = {"".join(e.itertext()): float(e.attrib["y"]) for e in ElementTree.fromstring(drawn).iter("text")}
    assert heights["yours: 0"] > heights["required"] + 8, "below the arrows: y grows downwards"


# ------------------------------------------------------------------------------------- JUnit and Markdown


def test_junit_counts_agree_and_failures_are_told(judgements: list[Judgement]) -> None:
    root = ElementTree.fromstring(to_junit(judgements, SETTINGS).encode())
    suites = root.findall("testsuite")
    assert len(suites) == len(judgements)
    for node in (root, *suites):
        for name, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped"), ("errors", "error")):
            assert int(node.get(name, "")) == len(list(node.iter(tag)))
    for case, r in zip(root.iter("testcase"), results(judgements), strict=True):
        assert case.get("name", "").startswith(r.id)
        assert (case.find("failure") is None and case.find("error") is None) == r.good
        assert (case.find("error") is not None) == (r.status == "unjudged")
        assert float(case.get("time", "")) == pytest.approx(r.seconds, abs=1e-3)
        failure = case.find("failure")
        told = " ".join(((failure.text if failure is not None else "") or "").split())  # it is wrapped
        assert failure is None or (r.statement in told and r.status == failure.get("type"))
        assert (case.find("skipped") is not None) == (r.status in ("skipped", "expected-failure"))


def test_junit_names_the_device_only_where_there_are_several() -> None:
    assert 'name="law-failed"' in to_junit([every_status()], SETTINGS)
    assert 'name="law-failed[cuda]"' in to_junit([two_devices()], SETTINGS)


def test_markdown_has_a_row_for_each_obligation(judgements: list[Judgement]) -> None:
    page = to_markdown(judgements, SETTINGS)
    rows = re.findall(r"^\| <code>.*\|$", page, re.MULTILINE)
    for row, r in zip(rows, results(judgements), strict=True):
        assert row.startswith(f"| <code>{r.id}</code>")
        assert row.count("|") == 7
    blocks = [part.split("</summary>")[0] for part in page.split("<details><summary>")[1:]]
    for block, r in zip(blocks, [r for r in results(judgements) if not r.good], strict=True):
        assert f"<b>{r.id}</b>" in block


def test_markdown_escapes_what_users_name() -> None:
    page = to_markdown([hostile()], SETTINGS)
    outside = re.sub(r"^(`{3,})python\n.*?^\1$", "", page, flags=re.MULTILINE | re.DOTALL)
    assert "<script" not in outside
    assert "](" not in outside
    assert "\x1b" not in page
    assert re.findall("^## ", outside, re.MULTILINE) == ["## "]


def test_markdown_fences_are_longer_than_what_they_hold() -> None:
    page = to_markdown([judgement(result("gradient", "failed"))], SETTINGS)
    assert "\n````python\n" in page


def test_markdown_leaves_scripts_out_where_it_would_be_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "import torch" in to_markdown([every_status()], SETTINGS)
    monkeypatch.setattr(markdown_module, "LIMIT", 100)
    page = to_markdown([every_status()], SETTINGS)
    assert "import torch" not in page
    assert "law-failed" in page


# ---------------------------------------------------------------------------------------------- baseline


def report(*results: Result, subject: str = "mine", settings: Settings = SETTINGS) -> dict[str, Any]:
    return to_json([judgement(*results, subject=subject)], settings)


def with_ratio(ratio: float) -> Result:
    return replace(result("gradient"), outcome=Outcome("passed", 10, ratio, ratios=(ratio,)))


def test_nothing_is_worse_than_itself(judgements: list[Judgement]) -> None:
    same = to_json(judgements, SETTINGS)
    assert compare(same, json.loads(json.dumps(same))) == []
    assert notes(same, same) == []


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (result("gradient"), result("gradient", "failed"), "fails"),
        (result("gradient"), result("gradient", "expected-failure"), "fails"),
        (result("gradient", "unexpected-pass"), result("gradient", "failed"), "fails"),
        (result("gradient"), result("gradient", "skipped"), "not-checked"),
        (result("gradient", "failed"), result("gradient", "skipped"), "not-checked"),
        (result("gradient"), result("other"), "obligation-missing"),
        (result("gradient"), result("gradient", device="cuda"), "obligation-missing"),
        (with_ratio(0.7), with_ratio(1.5), "ratio"),
        (with_ratio(0.0), with_ratio(1.01), "ratio"),
        (with_ratio(1.5), with_ratio(3.1), "ratio"),
    ],
)
def test_each_kind_of_worsening_is_found(before: Result, after: Result, kind: str) -> None:
    (found,) = compare(report(before), report(after))
    assert (found.kind, found.target, found.obligation, found.device) == (kind, "mine", "gradient", "cpu")
    assert str(found).startswith("mine: gradient on cpu ")
    assert compare(report(after), report(after)) == []


def test_a_target_that_cannot_be_judged_any_more_is_told_once() -> None:
    before, after = report(result("gradient"), result("kl")), report(result("gradient", "unjudged"))
    (found,) = compare(before, after)
    assert (found.kind, found.obligation) == ("target-unjudged", "")
    assert "raised KeyError" in str(found)
    assert compare(after, before) == compare(after, after) == []
    assert notes(after, before) == ["mine could not be judged, and is now"]


def test_reports_of_the_first_version_are_compared(tmp_path: Path) -> None:
    """They lack what is not compared."""
    old = report(result("gradient"))
    old["schema"]["version"] = 1
    del old["targets"][0]["unjudged"]
    for obligation in old["targets"][0]["obligations"]:
        del obligation["seconds"], obligation["meaning"]
    file = tmp_path / "old.json"
    file.write_text(json.dumps(old), encoding="utf-8")
    assert [r.kind for r in compare(load(file), report(result("gradient", "failed")))] == ["fails"]


def test_a_missing_target_is_found() -> None:
    (found,) = compare(report(result("gradient")), report(result("gradient"), subject="other"))
    assert (found.kind, str(found)) == ("target-missing", "mine was judged, and is missing now")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (with_ratio(0.01), with_ratio(0.99)),  # rounding in another order
        (with_ratio(1.5), with_ratio(2.9)),  # not doubled
        (with_ratio(3.9), with_ratio(0.1)),
        (result("gradient", "failed"), result("gradient")),
        (result("gradient", "failed"), result("gradient", "expected-failure")),
        (result("gradient", "skipped"), result("gradient")),
        (result("gradient", "skipped"), result("other")),
    ],
)
def test_what_is_not_worse_is_not_told_as_such(before: Result, after: Result) -> None:
    assert compare(report(before), report(after)) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (result("gradient", "failed"), result("gradient"), "mine: gradient on cpu failed, and holds now"),
        (result("gradient", "skipped"), result("gradient"), "mine: gradient on cpu was not checked, and holds now"),
        (with_ratio(3.9), with_ratio(0.1), "mine: gradient on cpu gained precision"),
    ],
)
def test_what_is_better_is_noted(before: Result, after: Result, told: str) -> None:
    (note,) = notes(report(before), report(after))
    assert note.startswith(told)


def test_other_settings_and_new_targets_are_noted() -> None:
    before, after = report(result("kl")), report(result("kl"), subject="new", settings=replace(SETTINGS, seed=5))
    assert notes(before, after) == ["the setting seed was 0 and is 5", "new is new"]


def test_targets_of_one_name_are_told_apart() -> None:
    before = to_json([judgement(result("kl")), judgement(result("kl"))], SETTINGS)
    after = to_json([judgement(result("kl")), judgement(result("kl", "failed"))], SETTINGS)
    assert [r.target for r in compare(before, after)] == ["mine (2)"]


def test_a_report_is_loaded_again(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    written = report(*every_status().results)
    file.write_text(json.dumps(written), encoding="utf-8")
    assert load(file) == written


def _broken(**changes: Any) -> str:
    return json.dumps({**report(result("kl")), **changes})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe\x00", "codec"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "gradcheck-check"),
        (b"{}", "gradcheck-check"),
        (_broken(schema={"name": "gradcheck-verify", "version": 1}).encode(), "'gradcheck-verify'"),
        (_broken(schema={"name": "gradcheck-check", "version": 4}).encode(), "schema version 4"),
        (_broken(targets=[{"target": "x"}]).encode(), "obligations"),
        (_broken(targets=[{"target": "x", "obligations": [{"id": "y"}]}]).encode(), "missing or wrong"),
        (_broken(targets=7).encode(), "missing or wrong"),
        (_broken(targets=[{"target": [], "obligations": []}]).encode(), "missing or wrong"),
        (_broken(settings=None).encode(), "missing or wrong"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(says)) as refusal:
        load(file)
    assert str(file) in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(InputError, match="Is a directory"):
        load(tmp_path)
