r"""A verification report as text for people, and as JSON for machines."""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch

from derivations.writing.render import closing_row
from derivations.writing.wrapping import wrap_formula, wrap_words
from gradcheck.console import in_characters, painted, prose, width
from gradcheck.verifying.verification import Check, Report, Verification

__all__ = ["JSON_VERSION", "blocks", "failures", "print_report", "summary", "to_json"]

JSON_VERSION = 2
"""Version of the JSON that is written."""


def blocks(report: Report, width: int, *, every: bool = False, shown: Callable[[str], str] = str) -> list[str]:
    """What each loss really optimises, and how far that was verified: a block of lines for each algorithm.

    Args:
        report: what was seen.
        width: columns.
        every: the variants too; else only those that do not hold, and how many do.
        shown: applied to each text, to spell it in characters that the terminal has.
    """
    groups: dict[str, list[Verification]] = {}
    for result in report.results:
        groups.setdefault(result.entry.derivation.name, []).append(result)
    lines: list[str] = []
    for results in groups.values():
        whole = [r for r in results if every or not r.holds or r is results[0]]
        for result in whole:
            lines += [*_block(result, report, width, shown), ""]
        rest = len(results) - len(whole)
        if rest:
            words = "variants hold; --all shows them" if rest > 1 else "variant holds; --all shows it"
            lines[-1:] = [f"  {rest} more {words}", ""]
    return lines[:-1]


def _block(result: Verification, report: Report, width: int, shown: Callable[[str], str]) -> list[str]:
    """One loss: its name, its gradient and target, and what was checked."""
    derivation = result.entry.derivation
    _, process, policy, gradient, target = closing_row(derivation)
    paper = derivation.variant.name == "paper"
    name = derivation.title if paper else f"{derivation.title} [{derivation.variant.name}]"
    head = f"{name}  ({result.entry.label})" if paper else name
    lines = wrap_words(shown(f"{head}: {process} process, {policy}-policy"), width, "", "  ")
    for word, formula in (("gradient", gradient), ("target", target)):
        first, *rest = wrap_formula(shown(formula), width - 12)
        lines += [f"  {word:8}  {first}", *(" " * 12 + line for line in rest)]
    places = [f"{_checked([c for c in result.checks if c.device == d])} on {d.upper()}" for d in report.devices]
    checked = [f"{_proved(result)} proved", *places]
    if report.without_networks is None:
        checked.append(f"networks {_on_networks(result)}")
    checked += [f"worst ratio {result.ratio:.2f}", f"sees {_sees(result)}"]
    lines += wrap_words(shown("; ".join(checked)), width, f"  {'checked' if result.holds else 'FAILED':8}  ")
    return lines


def _proved(result: Verification) -> str:
    steps, refused = len(result.proof.results), len(result.proof.refused)
    return f"{steps - refused} of {steps} steps" if refused else f"{steps} steps"


def _checked(checks: list[Check]) -> str:
    if any(c.failure for c in checks):
        return "problems FAILED"
    return f"{sum(c.examples for c in checks)} problems hold" if checks else "no problem"


def _sees(result: Verification) -> str:
    """The smallest relative error that each precision would have shown."""
    by_dtype: dict[str, float] = {}
    for c in result.checks:
        by_dtype[c.dtype] = min(by_dtype.get(c.dtype, math.inf), c.resolution)
    return ", ".join(f"{f:.0e}" if math.isfinite(f) else "none" for f in by_dtype.values()) or "-"


def _on_networks(result: Verification) -> str:
    bad = sorted({n.network for n in result.networks if not n.holds})
    if bad:
        return "FAILED: " + ", ".join(bad)
    return ", ".join(dict.fromkeys(n.network for n in result.networks)) + " hold"


def failures(report: Report) -> list[str]:
    """One paragraph for each thing that did not hold, readable without the source."""
    out = []
    for proof in (*report.theorems, *(r.proof for r in report.results)):
        for refused in proof.refused:
            out.append(
                f"{proof.name}: step '{refused.step.name}' is refused: {refused.step.sentence}\n  {refused.reason}"
            )
    for result in report.results:
        for check in result.checks:
            if check.failure:
                spec, which, found = check.failure
                against = "the derived gradient" if which == "gradient" else "autograd of the equivalent loss"
                out.append(
                    f"{result.entry.label} in {check.dtype} on {check.device}: "
                    f"autograd of the original loss differs from {against}\n"
                    f"  observed {found.observed:.6g}, required {found.required:.6g}, bound {found.bound:.2g}, "
                    f"test ratio {found.ratio:.3g}, at sample {found.index[0]}, coordinate {found.index[1:]}\n"
                    f"  smallest problem: {spec}"
                )
        for network in result.networks:
            if not network.holds:
                out.append(
                    f"{result.entry.label} at the parameters of {network.network} "
                    f"in {network.dtype} on {network.device}: "
                    f"test ratio {network.ratio:.3g}, worst at {network.worst}"
                )
    return out


def summary(report: Report) -> str:
    """One line that says how it went."""
    steps = sum(len(p.results) for p in report.theorems) + sum(len(r.proof.results) for r in report.results)
    problems = sum(c.examples for r in report.results for c in r.checks)
    worst: dict[str, float] = {}
    for result in report.results:
        for check in result.checks:
            worst[check.dtype] = max(worst.get(check.dtype, 0.0), check.ratio)
    ratios = ", ".join(f"{ratio:.2f} in {dtype}" for dtype, ratio in worst.items())
    on_networks = sum(len(r.networks) for r in report.results)
    nets = f", {on_networks} checks on networks" if on_networks else ""
    verdict = "everything holds" if report.holds else f"{len(failures(report))} FAILED"
    return (
        f"{verdict}: {steps} steps proved for every dimension D, {problems} random problems{nets}, on "
        f"{' and '.join(report.devices)}; largest test ratio {ratios} (passes up to {report.threshold:g}); "
        f"{report.seconds:.0f} s"
    )


def notes(report: Report) -> list[str]:
    """What was not checked, and why."""
    out = []
    if "cuda" not in report.devices:
        why = "torch sees no CUDA device" if not torch.cuda.is_available() else "it was not asked for"
        out.append(f"CUDA was not checked: {why}.")
    if report.without_networks is not None:
        out.append(f"Networks were not checked: {report.without_networks}.")
    return out


def print_report(report: Report, *, every: bool = False) -> None:
    """The blocks, what was left out, failures, and the summary line."""
    shown = in_characters
    explanation = [
        "gradient, target  of the loss that is minimised; ≈ holds near v_θ = v_old",
        "worst ratio       largest |difference| / rounding error over all random problems",
        f"sees              smallest relative error that would have been refused, in {', '.join(_dtypes(report))}",
    ]
    for line in blocks(report, width(), every=every, shown=shown):
        print(painted(line, "bad") if line.startswith("  FAILED") else line)
    print()
    for line in explanation:
        print(painted(prose(line), "quiet"))
    for note in notes(report):
        print(prose(note))
    for failure in failures(report):
        print()
        print(painted(prose(f"FAILED {failure}"), "bad"))
    print(painted(prose(summary(report)), "good" if report.holds else "bad"))


def _dtypes(report: Report) -> list[str]:
    return list(dict.fromkeys(c.dtype for r in report.results for c in r.checks))


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain data, schema version :data:`JSON_VERSION`."""
    return {
        "schema": {"name": "gradcheck-verify", "version": JSON_VERSION},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "sympy": version("sympy"),
            "devices": {
                d: torch.cuda.get_device_name() if d == "cuda" else platform.processor() for d in report.devices
            },
        },
        "holds": report.holds,
        "seed": report.seed,
        "threshold": report.threshold,
        "seconds": report.seconds,
        "not_checked": notes(report),
        "theorems": [_proof_json(p) for p in report.theorems],
        "results": [_result_json(r) for r in report.results],
        "failures": failures(report),
    }


def _proof_json(proof: Any) -> dict[str, Any]:
    return {
        "name": proof.name,
        "holds": proof.holds,
        "steps": [{"name": r.step.name, "proved": r.proved, "residual": str(r.residual)} for r in proof.results],
    }


def _result_json(result: Verification) -> dict[str, Any]:
    _, process, policy, gradient, target = closing_row(result.entry.derivation)
    return {
        "name": result.entry.label,
        "holds": result.holds,
        "process": process,
        "policy": policy,
        "gradient": gradient,
        "target": target,
        "proof": _proof_json(result.proof),
        "checks": [
            {
                "dtype": c.dtype,
                "device": c.device,
                "examples": c.examples,
                "gradient_ratio": c.gradient,
                "equivalence_ratio": c.equivalence,
                "judged": c.judged,
                "resolution": c.resolution if math.isfinite(c.resolution) else None,
                "seconds": c.seconds,
                "failure": None if c.failure is None else {"problem": str(c.failure[0]), "check": c.failure[1]},
            }
            for c in result.checks
        ],
        "networks": [
            {"network": n.network, "dtype": n.dtype, "device": n.device, "ratio": n.ratio, "holds": n.holds}
            for n in result.networks
        ],
    }
