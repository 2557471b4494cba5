r"""The pytest plugin: options, header, and a table of obligations at the end.

Nothing heavy is imported until a test that needs it runs.
"""

from __future__ import annotations

import base64
import inspect
import pickle
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from gradcheck.doors.parts import PartSubject
    from gradcheck.doors.trainers import TrainerSubject
    from gradcheck.judging.results import Result
    from gradcheck.oracle.subject import Settings, Subject

T = TypeVar("T")
_RESULT = "gradcheck_result"
_SUMMARY = "gradcheck"
_DIAGNOSED = pytest.StashKey[dict[tuple[str, str], dict[str, Any]]]()
_WHOLE = pytest.StashKey[dict[tuple[str, str], Any]]()
_REPORTS = ("json", "html", "junit", "summary")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradcheck", "gradcheck: correctness of RL losses for diffusion models")
    group.addoption("--gradcheck-device", default="cpu", help="cpu, cuda or all (cpu)")
    group.addoption(
        "--gradcheck-dtype", default="float64", help="of the cases: float64, float32, bfloat16 or float16 (float64)"
    )
    group.addoption("--gradcheck-batch", type=int, metavar="N", help="samples in a batch (several, 1 to 131)")
    group.addoption("--gradcheck-latent", metavar="SIZES", help="shape of one sample, 16,64,64 for instance")
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each obligation of a decorated function."""
    obligations = getattr(metafunc.function, "gradcheck_obligations", None)
    if isinstance(obligations, list):
        metafunc.parametrize("obligation", obligations)


def pytest_pycollect_makeitem(collector: Any, name: str, obj: Any) -> Any:
    """The tests of a decorated function that stays what it was: of the one that stands beside it."""
    test = _beside(obj)
    if test is None:
        return None
    test.pytestmark = getattr(obj, "pytestmark", [])
    return collector.ihook.pytest_pycollect_makeitem(collector=collector, name=name, obj=test)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """In place of such a function its test is called."""
    __tracebackhide__ = True
    test = _beside(pyfuncitem.obj)
    if test is None:
        return None
    if test.gradcheck_function is not getattr(pyfuncitem.obj, "__func__", pyfuncitem.obj):  # a copy of its attributes
        told = f"{pyfuncitem.originalname} is under another decorator than gradcheck's, which must be the uppermost"
        pytest.fail(f"[gradcheck] {pyfuncitem.originalname} could not be judged: {told}", pytrace=False)
    bound = () if pyfuncitem.instance is None or not inspect.ismethod(pyfuncitem.obj) else (pyfuncitem.instance,)
    test(*bound, **{name: pyfuncitem.funcargs[name] for name in ("obligation", "request")})
    return True


def _beside(value: Any) -> Any:
    """The test that stands beside a function; ``None`` for anything else, whatever it does when it is asked."""
    try:
        own = object.__getattribute__(getattr(value, "__func__", value), "__dict__")
        return own.get("gradcheck_test")
    except Exception:
        return None


def settings_of(config: pytest.Config) -> Settings:
    """The run's settings, from the command line."""
    from gradcheck.oracle.subject import Settings, sizes

    return Settings(
        device=config.getoption("--gradcheck-device"),
        dtype=config.getoption("--gradcheck-dtype"),
        max_examples=config.getoption("--gradcheck-max-examples"),
        seed=config.getoption("--gradcheck-seed"),
        compiled=config.getoption("--gradcheck-compiled"),
        timeout=config.getoption("--gradcheck-timeout"),
        latent=sizes(config.getoption("--gradcheck-latent")),
        batch=config.getoption("--gradcheck-batch"),
    )


def run_obligation(subject: Subject, obligation: str, request: pytest.FixtureRequest) -> None:
    """Check one obligation of one implementation, and tell pytest how it went."""
    __tracebackhide__ = True
    from gradcheck.devices import own_modes

    with own_modes():  # not in those of a fixture or of conftest.py
        _run_obligation(subject, obligation, request)


def _run_obligation(subject: Subject, obligation: str, request: pytest.FixtureRequest) -> None:
    __tracebackhide__ = True
    from gradcheck.devices import devices
    from gradcheck.errors import GradcheckError
    from gradcheck.oracle.obligations import OBLIGATIONS
    from gradcheck.oracle.runner import check_obligation, shortened, unjudged

    subject = _named(subject, request)
    wanted = next(o for o in OBLIGATIONS if o.id == obligation)
    known = request.config.stash.setdefault(_DIAGNOSED, {})
    printed: dict[str, None] = {}
    try:
        settings = settings_of(request.config)
        chosen = devices(settings.device)
    except GradcheckError as error:  # bad options
        pytest.fail(f"[gradcheck] {subject.name} could not be judged: {error}", pytrace=False)
    results = []
    for device in chosen:
        causes = known.setdefault((subject.name, device), {})
        try:
            results.append(check_obligation(subject, wanted, settings, device, causes, printed))
        except GradcheckError as error:
            results.append(unjudged(wanted, settings, device, str(error)))
    text = shortened(printed)
    if text:
        print(text)  # for pytest to show beside a failure
    reference = subject.conventions.derivation.reference
    for result in results:
        _remember(request, subject.name, subject.conventions.describe(), reference, result, text)
    _verdict(results, subject.name, reference)


def run_whole(subject: PartSubject | TrainerSubject, obligation: str, request: pytest.FixtureRequest) -> None:
    """The same for a part or a step, judged as a whole, once: a cause is sought in what all its obligations say."""
    __tracebackhide__ = True
    from gradcheck.devices import own_modes
    from gradcheck.errors import GradcheckError

    known = request.config.stash.setdefault(_WHOLE, {})
    test = request.node.parent.nodeid, request.node.originalname  # a method's subject is made anew for each obligation
    if test not in known:
        try:
            with own_modes():
                known[test] = _named(subject, request).attempt(settings_of(request.config))
        except GradcheckError as error:  # bad options
            pytest.fail(f"[gradcheck] {subject.name} could not be judged: {error}", pytrace=False)
    judgement = known[test]
    name = judgement.subject
    if judgement.printed:
        print(judgement.printed)
    results = [r for r in judgement.results if r.id == obligation]
    for result in results:
        _remember(request, name, judgement.declaration, judgement.reference, result, judgement.printed)
    _verdict(results, name, judgement.reference)


def _named(subject: T, request: pytest.FixtureRequest) -> T:
    """With the test's name in place of one that says nothing, and that others have too."""
    from gradcheck.doors.collecting import renamed

    called: Any = subject
    return subject if called.name.rpartition(".")[2] != "<lambda>" else renamed(subject, request.node.originalname)


def _verdict(results: list[Result], name: str, reference: str) -> None:
    __tracebackhide__ = True
    from gradcheck.judging.results import Raised
    from gradcheck.reports.text import failure_text
    from gradcheck.reports.writing import save_script

    bad = [r for r in results if not r.good]
    for result in bad:
        if result.status == "unjudged":
            pytest.fail(f"[gradcheck] {name} could not be judged: {result.outcome.detail}", pytrace=False)
        if isinstance(result.outcome, Raised):
            told = f"[gradcheck] {name} could not be judged: {result.outcome.raised}"
            pytest.fail(f"{told}\n{failure_text(result, name, reference, save=save_script)}", pytrace=False)
    if bad:
        pytest.fail("\n\n".join(failure_text(r, name, reference, save=save_script) for r in bad), pytrace=False)
    if all(r.status == "skipped" for r in results):
        pytest.skip(results[0].outcome.detail)
    if any(r.status == "expected-failure" for r in results):
        pytest.xfail(results[0].expected)


def _remember(
    request: pytest.FixtureRequest, name: str, declaration: str, reference: str, result: Result, printed: str
) -> None:
    """Attach what the controlling process needs for its table and its reports; it may be another process."""
    node = request.node
    line = (name, result.id, result.device, result.status, result.outcome.ratio, result.outcome.examples)
    node.user_properties.append((_SUMMARY, line))
    if any(request.config.getoption(f"--gradcheck-{kind}") for kind in _REPORTS):
        packed = pickle.dumps((name, declaration, reference, result, printed))
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
    for subject in dict.fromkeys(line[0] for line in lines):
        mine = [line for line in lines if line[0] == subject]
        bad = [line for line in mine if line[3] in ("failed", "unexpected-pass", "unjudged")]
        held = [line for line in mine if line[3] == "passed"]
        ratio = max((line[4] for line in held), default=0.0)
        cases = sum(line[5] for line in mine)
        what = f"FAILED: {', '.join(line[1] for line in bad)}" if bad else _held(mine)
        terminalreporter.write_line(
            f"{subject}: {what} ({len(held)} obligations hold, largest test ratio {ratio:.2g}, {cases} cases)",
            red=bool(bad),
            green=not bad and what == "conforms",
            yellow=not bad and what != "conforms",
        )
    _write_reports(terminalreporter, config)


def _held(lines: list[Any]) -> str:
    """What may be said where nothing failed: nothing conforms whose gradient was not compared."""
    passed = [line[1] for line in lines if line[3] == "passed"]
    from gradcheck.judging.results import of_kernel

    kernel = of_kernel(line[1:4] for line in lines)
    if "skipped" in kernel or not passed:
        return "NOT CHECKED"
    return "fails as declared" if "expected-failure" in kernel else "conforms"


def _write_reports(terminalreporter: Any, config: pytest.Config) -> None:
    files = {kind: config.getoption(f"--gradcheck-{kind}") for kind in _REPORTS}
    if not any(files.values()):
        return
    from gradcheck.judging.results import Judgement
    from gradcheck.oracle.runner import shortened
    from gradcheck.reports.writing import write_reports

    grouped: dict[str, tuple[str, str, list[Result], dict[str, None]]] = {}
    for packed in _properties(terminalreporter, _RESULT):
        name, declaration, reference, result, text = pickle.loads(base64.b64decode(packed))
        _, _, results, printed = grouped.setdefault(name, (declaration, reference, [], {}))
        results.append(result)
        printed.setdefault(text)
    settings = settings_of(config)
    judgements = [
        Judgement(
            name,
            declaration,
            tuple(results),
            reference,
            settings.seed,
            sum(r.seconds for r in results),
            shortened(printed),
        )
        for name, (declaration, reference, results, printed) in grouped.items()
    ]
    for written in write_reports(judgements, settings, files):
        terminalreporter.write_line(f"wrote {written}")


def pytest_report_header(config: pytest.Config) -> list[str]:
    chosen = config.getoption("--gradcheck-device")
    return [f"gradcheck: {config.getoption('--gradcheck-max-examples')} cases for each obligation on {chosen}"]
