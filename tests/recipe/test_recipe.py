"""Adding an algorithm takes a file on each side and a line: everything else follows, the causes of mistakes too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from gradcheck.catalogue import ALGORITHMS, entry
from tests.recipe.generic import mistakes, told

ROOT = Path(__file__).parents[2]
ADDED = ("hinge", "centred", "held")


def named(status: str, cause: str, wanted: str) -> bool:
    return status == "failed" and re.search(wanted, cause) is not None


OWN = [
    pytest.param(algorithm.name, name, id=f"{algorithm.name}-{name}")
    for at, algorithm in enumerate(ALGORITHMS)
    for name, *_ in list(mistakes(entry(algorithm.name)))[at % 3 :: 3]
]
"""Of each algorithm a third, since each has wrong versions of its own; ``python -m tests.recipe.generic`` tries all."""


@pytest.mark.parametrize(("algorithm", "name"), OWN)
def test_mistakes_that_any_loss_can_have_are_named(algorithm: str, name: str) -> None:
    one = entry(algorithm)
    wrong, wanted = next((wrong, said) for n, wrong, said in mistakes(one) if n == name)
    status, cause = told(one, wrong)
    assert named(status, cause, wanted), cause


@cache
def checkout(folder: Path) -> Path:
    """The library with three more algorithms, added as docs/adding.md says."""
    for package in ("derivations", "gradcheck", "tests/recipe"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for side in ("derivations", "gradcheck"):
        source = "derivations" if side == "derivations" else "losses"
        for name in ADDED:
            shutil.copy(ROOT / "tests/recipe" / source / f"{name}.py", folder / side / "losses")
    catalogue = folder / "gradcheck/catalogue.py"
    text = catalogue.read_text()
    assert text.count('    "dgpo",\n') == 1
    lines = "".join(f'    "{name}",\n' for name in ADDED)
    catalogue.write_text(text.replace('    "dgpo",\n', f'    "dgpo",\n{lines}'))
    return folder


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("extended"))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=600)


def test_a_new_algorithm_is_proved_and_computed(extended: Path) -> None:
    done = run(extended, "gradcheck", "verify", *ADDED, "--no-networks", "--max-examples", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything holds" in done.stdout


def test_a_new_algorithm_follows_from_its_line(extended: Path) -> None:
    code = """
import sys
import gradcheck
from gradcheck.catalogue import entries
for entry in entries(*sys.argv[1:]):
    derived = gradcheck.derive(entry.algorithm.lines[entry.variant], problems=4)
    print(entry.label, entry.label in [match.label for match in derived.matches])
"""
    (extended / "lines.py").write_text(code)
    done = run(extended, "lines", *ADDED)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()[1::2]) == {"True"}, done.stdout


def test_mistakes_in_a_new_algorithm_are_named(extended: Path) -> None:
    done = run(extended, "tests.recipe.generic", *(f"{name}[paper]" for name in ADDED))
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert {x["entry"] for x in seen} == set(ADDED)
    unnamed = [x for x in seen if not named(*x["told"], x["wanted"])]
    assert not unnamed


WEIGHTS = {
    "right": ("ratio.clamp(max=1 + case.clip_high).detach()", ""),
    "live": ("ratio.clamp(max=1 + case.clip_high)", "weight-live"),
    "unbounded": ("ratio.detach()", "bound-missing"),
    "on_both_sides": ("ratio.clamp(1 - case.clip_high, 1 + case.clip_high).detach()", "bound-on-both-sides"),
    "from_below": ("ratio.clamp(min=1 - case.clip_high).detach()", "bound-reversed"),
    "by_the_width": ("ratio.clamp(max=case.clip_high).detach()", "bound-without-one"),
}
"""What stands for the weight, and the name of the mistake."""


def test_what_a_new_algorithm_detaches_and_bounds_is_named(extended: Path) -> None:
    code = """
import torch, gradcheck
from gradcheck.losses._common import gaussian_log_prob, sampler_step


def logs(case):
    step = sampler_step(case, "flow")
    (mean, std), (mean_old, _) = step(case.v_theta), step(case.v_old)
    return (gaussian_log_prob(case.x_prev, m, std, "sum") for m in (mean, mean_old))
"""
    for name, (weight, _) in WEIGHTS.items():
        code += f"""

@gradcheck.conforms("held")
def {name}(case):
    log_prob, log_prob_old = logs(case)
    ratio = torch.exp(log_prob - log_prob_old.detach())
    return -({weight} * case.advantage * log_prob).mean()
"""
    (extended / "weights.py").write_text(code)
    done = run(extended, "gradcheck", "check", "weights.py", "--only", "gradient", "--json", "weights.json")
    assert done.returncode == 1, done.stderr
    results = [
        (x["target"], x["obligations"][0]["diagnosis"])
        for x in json.loads((extended / "weights.json").read_text())["targets"]
    ]
    assert {name: found["name"] if found else "" for name, found in results} == {n: c for n, (_, c) in WEIGHTS.items()}
