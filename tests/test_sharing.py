"""Work that is shared among processes comes to what it comes to in one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gradcheck.errors import GradcheckError
from gradcheck.verifying.sharing import Shared

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

SAME = """
from dataclasses import replace
from gradcheck.forking import may_fork
from gradcheck.verifying.verification import verify

options = dict(device="cpu", max_examples=4, with_networks=False)
lines = {1: [], 2: []}
assert may_fork()
shared = verify("awm[mean]", "rwr", "flow_grpo[mean]", **options, jobs=2, progress=lines[2].append)
alone = verify("awm[mean]", "rwr", "flow_grpo[mean]", **options, progress=lines[1].append)
untimed = [[line.split(" proved in ")[0] for line in told] for told in lines.values()]
assert untimed[0] == untimed[1], untimed
assert shared.holds and len(shared.results) > 2
for a, b in zip(shared.results, alone.results, strict=True):
    assert [replace(c, seconds=0.0) for c in a.checks] == [replace(c, seconds=0.0) for c in b.checks]
    assert [(r.step.name, r.residual) for r in a.proof.results] == [(r.step.name, r.residual) for r in b.proof.results]
"""


def test_two_processes_find_what_one_does() -> None:
    """To the last digit: the same problems are drawn, whichever process draws them."""
    done = subprocess.run([sys.executable, "-c", SAME], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_results_are_given_in_the_order_in_which_they_are_asked_for() -> None:
    with Shared(lambda task: (task, os.getpid()), [[4, 3], [2], [1, 0]], 2) as results:
        found = [results(task) for task in range(5)]
    assert [task for task, _ in found] == list(range(5))
    assert os.getpid() not in {process for _, process in found}
    assert found[4][1] == found[3][1]  # a batch stays together
    assert found[1][1] == found[0][1]


def test_what_a_task_raises_is_raised_where_it_is_asked_for() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        Shared(lambda task: 1 // task, [[1], [0]], 2) as results,
    ):
        results(0)


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(GradcheckError, match="ended before 7 was done"), Shared(os._exit, [[7]], 2) as results:
        results(7)
