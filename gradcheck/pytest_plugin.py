r"""The pytest plugin: options, header, and a table of obligations at the end.

Nothing heavy is imported until a test that needs it runs.
"""

from __future__ import annotations

import base64
import pickle
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gradcheck.oracle.obligations import Obligation
    from gradcheck.oracle.results import Result
    from gradcheck.oracle.target import Settings, Target

_RESULT = "gradcheck_result"
_SUMMARY = "gradcheck"
_DIAGNOSED = pytest.StashKey[dict[tuple[str, str], dict[str, Any]]]()
_REPORTS = ("json", "html", "junit", "summary")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradcheck", "gradcheck: correctness of RL losses for diffusion models")
    group.addoption("--gradcheck-device", default="cpu", help="cpu, cuda or all (cpu)")
    group.addoption("--gradcheck-dtype", default="float64", help="precision of the cases: float64 or float32 (float64)")
    group.addoption(
        "--gradcheck-max-examples", type=int, default=10, metavar="N", help="cases for each obligation (10)"
    )
    group.addoption("--gradcheck-seed", type=int, default=0, help="of the cases (0)")
    group.addoption(
        "--gradcheck-timeout", type=float, default=60.0, metavar="SECONDS", help="that one call may take (60)"
    )
    group.addoption("--gradcheck-compiled", action="store_true", help="also judge under torch.compile")
    for kind in _REPORTS:
        group.addoption(f"--gradcheck-{kind}", metavar="FILE", help=f"write a {kind} report of the obligations")


def settings_of(config: pytest.Config) -> Settings:
    """The run's settings, from the command line."""
    from gradcheck.oracle.target import Settings

    return Settings(
        device=config.getoption("--gradcheck-device"),
        dtype=config.getoption("--gradcheck-dtype"),
        max_examples=config.getoption("--gradcheck-max-examples"),
        seed=config.getoption("--gradcheck-seed"),
        compiled=config.getoption("--gradcheck-compiled"),
        timeout=config.getoption("--gradcheck-timeout"),
    )


def run_obligation(target: Target, obligation: str, request: pytest.FixtureRequest) -> None:
    """Check one obligation of one implementation, and tell pytest how it went."""
    __tracebackhide__ = True
    from gradcheck.errors import GradcheckError
    from gradcheck.oracle.obligations import OBLIGATIONS
    from gradcheck.oracle.runner import check_obligation
    from gradcheck.verification import devices

    wanted = next(o for o in OBLIGATIONS if o.id == obligation)
    known = request.config.stash.setdefault(_DIAGNOSED, {})
    try:
        settings = settings_of(request.config)
        results = [
            check_obligation(target, wanted, settings, device, known.setdefault((target.name, device), {}))
            for device in devices(settings.device)
        ]
    except GradcheckError as error:
        _remember(request, target, _unjudged(wanted, error, request.config))
        pytest.fail(f"[gradcheck] {target.name} could not be judged: {error}", pytrace=False)
    for result in results:
        _remember(request, target, result)
    _verdict(results, target)


def _unjudged(obligation: Obligation, error: Exception, config: pytest.Config) -> Result:
    """A failing result for an implementation that gives nothing to judge, so that no report calls it right."""
    from gradcheck.oracle.results import Outcome, Result

    return Result(
        id=obligation.id,
        statement=obligation.statement,
        catches=obligation.catches,
        outcome=Outcome("failed", detail=f"could not be judged: {error}"),
        device=config.getoption("--gradcheck-device"),
        dtype=config.getoption("--gradcheck-dtype"),
    )


def _verdict(results: list[Result], target: Target) -> None:
    __tracebackhide__ = True
    from gradcheck.oracle.text import failure_text

    bad = [r for r in results if not r.good]
    if bad:
        pytest.fail(
            "\n\n".join(failure_text(r, target.name, target.conventions.derivation.reference) for r in bad),
            pytrace=False,
        )
    if all(r.status == "skipped" for r in results):
        pytest.skip(results[0].outcome.detail)
    if any(r.status == "expected-failure" for r in results):
        pytest.xfail(results[0].expected)


def _remember(request: pytest.FixtureRequest, target: Target, result: Result) -> None:
    """Attach what the controlling process needs for its table and its reports; it may be another process."""
    node = request.node
    line = (target.name, result.id, result.device, result.status, result.outcome.ratio, result.outcome.examples)
    node.user_properties.append((_SUMMARY, line))
    if any(request.config.getoption(f"--gradcheck-{kind}") for kind in _REPORTS):
        packed = pickle.dumps(
            (target.name, target.conventions.describe(), target.conventions.derivation.reference, result)
        )
        node.user_properties.append((_RESULT, base64.b64encode(packed).decode()))


def _properties(reporter: Any, name: str) -> list[Any]:
    found = []
    for reports in reporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) in ("call", None):
                found += [value for key, value in getattr(report, "user_properties", ()) if key == name]
    return found


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    lines = _properties(terminalreporter, _SUMMARY)
    if not lines:
        return
    terminalreporter.section("gradcheck")
    for target in dict.fromkeys(line[0] for line in lines):
        mine = [line for line in lines if line[0] == target]
        bad = [line for line in mine if line[3] in ("failed", "unexpected-pass")]
        held = [line for line in mine if line[3] == "passed"]
        ratio = max((line[4] for line in held), default=0.0)
        cases = sum(line[5] for line in mine)
        what = f"FAILED: {', '.join(line[1] for line in bad)}" if bad else "conforms"
        terminalreporter.write_line(
            f"{target}: {what} ({len(held)} obligations hold, largest test ratio {ratio:.2g}, {cases} cases)",
            red=bool(bad),
            green=not bad,
        )
    _write_reports(terminalreporter, config)


def _write_reports(terminalreporter: Any, config: pytest.Config) -> None:
    files = {kind: config.getoption(f"--gradcheck-{kind}") for kind in _REPORTS}
    if not any(files.values()):
        return
    from gradcheck.oracle.results import Judgement
    from gradcheck.oracle.writing import write_reports

    grouped: dict[str, tuple[str, str, list[Any]]] = {}
    for packed in _properties(terminalreporter, _RESULT):
        name, declaration, reference, result = pickle.loads(base64.b64decode(packed))
        grouped.setdefault(name, (declaration, reference, []))[2].append(result)
    settings = settings_of(config)
    judgements = [
        Judgement(name, declaration, tuple(results), reference, settings.seed, 0.0)
        for name, (declaration, reference, results) in grouped.items()
    ]
    for written in write_reports(judgements, settings, files):
        terminalreporter.write_line(f"wrote {written}")


def pytest_report_header(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--gradcheck-device")
    return [f"gradcheck: {config.getoption('--gradcheck-max-examples')} cases for each obligation on {chosen}"]
