r"""What someone meets who has read the guide alone: messages that name the line, and the guide's own recipes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import declare
from gradcheck.judging.adapter import Adapter, AdapterError
from gradcheck.oracle.problem import oracle_case
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec


def _case(algorithm: str, **declared: Any) -> Case:
    return oracle_case(declare(algorithm, **declared), Spec(3, (2, 2), seed=1), torch.float64, "cpu")


def _message(function: Callable[[Case], Any]) -> str:
    with pytest.raises(AdapterError) as caught:
        Adapter(function, "mine").observe(_case("diffusion_nft"))
    return str(caught.value)


def _helper(x: Tensor) -> Tensor:
    return x.reshape(-1, 1000)


def test_an_exception_is_told_with_the_users_own_line() -> None:
    line = _helper.__code__.co_firstlineno + 1
    message = _message(lambda case: _helper(case.v_theta))
    assert message.startswith("mine raised RuntimeError: ")
    assert message.endswith(f"(test_new_user.py:{line})")


def test_an_unknown_quantity_is_told_with_the_line_that_asks() -> None:
    def asks(case: Case) -> Tensor:
        return case.old_log_prob

    message = _message(asks)
    assert "has no quantity 'old_log_prob'" in message
    assert message.endswith(f"(test_new_user.py:{asks.__code__.co_firstlineno + 1})")


@pytest.mark.parametrize("value", [0.5, 1, np.float32(1), np.zeros(3)])
def test_a_number_without_a_graph_points_to_the_guide(value: Any) -> None:
    assert "for a gradient by hand see docs/oracle.md" in _message(lambda case: value)


@pytest.mark.parametrize("value", [(torch.zeros(()), {}), [torch.zeros(())], {"loss": torch.zeros(())}])
def test_a_container_is_told_to_be_unpacked(value: Any) -> None:
    assert _message(lambda case: value).endswith("wanted the loss as a torch.Tensor (return the loss alone)")


def _numpy_gradient(beta_of: Callable[[float], float]) -> Callable[[Case], Tensor]:
    def loss(case: Case) -> Tensor:
        v, old, x_0, noise, r = (
            x.detach().numpy() for x in (case.v_theta, case.v_old, case.x_0, case.noise, case.reward_prob)
        )
        beta, r = float(case.beta), r.reshape((-1,) + (1,) * (v.ndim - 1))
        positive = beta * v + (1 - beta) * old - (noise - x_0)
        negative = (1 + beta) * old - beta * v - (noise - x_0)
        gradient = 2 * beta_of(beta) * (r * positive - (1 - r) * negative) / v.size
        return (torch.from_numpy(np.asarray(gradient)) * case.v_theta).sum()

    return loss


@pytest.mark.parametrize(
    ("beta_of", "cause"), [(lambda b: b, ""), (lambda b: 1.0, "over-beta"), (lambda b: -b, "sign")]
)
def test_a_gradient_by_hand_is_judged_as_the_guide_says(beta_of: Callable[[float], float], cause: str) -> None:
    subject = Subject(_numpy_gradient(beta_of), "mine", declare("diffusion_nft", reduction="mean"))
    judgement = judge(subject, Settings(max_examples=4))
    assert judgement.holds == (not cause)
    found = {r.diagnosis.name for r in judgement.results if r.diagnosis is not None}
    assert found == ({cause} if cause else set())


@pytest.mark.parametrize("algorithm", ["flow_grpo", "grpo_guard"])
def test_the_guides_names_are_a_cases_names(algorithm: str) -> None:
    names = {"v_theta", "v_old", "v_ref", "noise", "x_t", "x_prev", "t", "dt", "t_prev", "advantage", "log_prob_old"}
    names |= {"mean_old", "mean_ref", "noise_level", "kl_weight", "clip_low", "clip_high"}
    assert names | {"sigmas", "step_index", "timestep"} <= set(_case(algorithm, kl="step").names)


# --------------------------------------------------------------------------------- the guide's CI recipes

_ROOT = Path(__file__).parents[1]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A user's repository, with the guide's whole example as its losses' test."""
    guide = (_ROOT / "docs" / "oracle.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import torch\nimport gradcheck\n.*?)```", guide, re.DOTALL)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_my_losses.py").write_text(example, encoding="utf-8")
    return tmp_path


def _recipes() -> tuple[dict[str, Any], dict[str, Any]]:
    guide = (_ROOT / "docs" / "oracle.md").read_text(encoding="utf-8")
    workflow, hook = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL))
    return workflow, hook


def _shell(command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a CI server does, with this environment's programs."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **variables}
    arguments = ["bash", "-eo", "pipefail", "-c", command]
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)


def _break(repository: Path) -> None:
    file = repository / "tests" / "test_my_losses.py"
    right = file.read_text(encoding="utf-8")
    wrong = right.replace("/ (2 * std**2)).flatten(1).mean(1)", "/ (2 * std**2)).mean()")
    assert wrong != right
    file.write_text(wrong, encoding="utf-8")


def test_the_guides_workflow_does_what_it_says(repository: Path) -> None:
    workflow, _ = _recipes()
    job = workflow["jobs"]["losses"]
    uses = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
    assert uses == ["actions/checkout", "actions/setup-python"]
    install, check = (step["run"] for step in job["steps"] if "run" in step)
    assert install.startswith("pip install")
    summary = repository / "summary.md"
    done = _shell(check, repository, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# ✅ gradcheck: test&#95;guard conforms" in summary.read_text(encoding="utf-8")
    assert "<testsuites" in (repository / "gradcheck.xml").read_text(encoding="utf-8")
    _break(repository)
    done = _shell(check, repository, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 1
    assert "bias-averaged" in summary.read_text(encoding="utf-8")


def test_the_guides_hook_does_what_it_says(repository: Path) -> None:
    _, config = _recipes()
    (hook,) = config["repos"][0]["hooks"]
    assert hook["pass_filenames"] is False
    assert re.search(hook["files"], "my_package/losses/guard.py")
    entry = shlex.join(shlex.split(hook["entry"]))  # pre-commit splits it so, and starts it without a shell
    assert _shell(entry, repository).returncode == 0
    _break(repository)
    assert _shell(entry, repository).returncode == 1


def test_the_guides_first_example_is_judged_right_and_its_opposite_is_not() -> None:
    """Images behind a network in bfloat16: as it stands in the guide."""
    guide = (Path(__file__).parents[1] / "docs" / "oracle.md").read_text(encoding="utf-8")
    code = guide.partition("```python\n")[2].partition("```")[0]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    (subject,) = [x.gradcheck_subject for x in namespace.values() if hasattr(x, "gradcheck_subject")]
    settings = Settings(max_examples=3)
    assert subject.conventions.output_dtype == "bfloat16"
    judgement = judge(subject, settings)
    assert judgement.holds, [(r.id, r.outcome.detail) for r in judgement.results if not r.good]
    wrong = replace(subject, function=lambda case: -subject.function(case))
    assert not judge(wrong, settings, ("gradient",)).holds
