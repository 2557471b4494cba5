"""Settings of the test run: hypothesis profiles, threads, CUDA devices, and the tests that a processor may decide."""

from __future__ import annotations

import ast
import os
import sys
from collections import defaultdict
from functools import cache
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, settings

_EXAMPLES = 30
_COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.differing_executors],
}
settings.register_profile("dev", max_examples=_EXAMPLES, **_COMMON)
settings.register_profile("ci", max_examples=_EXAMPLES, derandomize=True, database=None, **_COMMON)
settings.register_profile("deep", max_examples=100 * _EXAMPLES, database=None, **_COMMON)
settings.load_profile("dev")

# Pytest's pytester forgets the modules that were first imported in its test, and what multiprocessing shares between
# processes is pickled by its module, so that it must stay the same: these are here before any such test.
for _name in ("forkserver", "sharedctypes", "spawn"):
    import_module(f"multiprocessing.{_name}")

torch.set_num_threads(int(os.environ.get("GRADCHECK_THREADS", "1")))  # small tensors, and a worker for each core


_OURS = Path(__file__).parents[1]
_DOORS = {
    "pytester",
    "capsys",
    "capfd",
    "tmp_path",
    "tmp_path_factory",
}  # tests of files, of text and of other processes


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="every parameter set of the tests that are marked thin too")
    parser.addoption(
        "--some",
        type=int,
        metavar="N",
        help="of each test run N parameter sets at most, spread over all of them; other ones for another --some-from",
    )
    parser.addoption("--some-from", type=int, default=0, metavar="K", help="where --some begins to count")
    parser.addoption("--share", default="0/1", metavar="K/N", help="the K-th of every N tests, on all their sets")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and _DOORS.isdisjoint(item.fixturenames) and _numerical(item.module):
            item.add_marker("numerical")
    sets = defaultdict(list)
    for item in items:
        sets[item.nodeid.partition("[")[0]].append(item)
    if not config.getoption("--whole"):
        sets = {name: some[:: _one_of(some[0])] for name, some in sets.items()}
    count = config.getoption("--some")
    if count:
        sets = {name: _spread(some, count, config.getoption("--some-from")) for name, some in sets.items()}
    share, shares = map(int, config.getoption("--share").split("/"))
    kept = {item for name in list(sets)[share % shares :: shares] for item in sets[name]}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def _one_of(item: pytest.Item) -> int:
    """Of how many parameter sets one is run, by the mark ``thin``."""
    mark = item.get_closest_marker("thin")
    return 1 if mark is None else int(mark.args[0])


def _spread(items: list[pytest.Item], count: int, start: int) -> list[pytest.Item]:
    """At most so many of them, evenly spread; with starts 0, 1, 2 … all of them in turn."""
    stride = -(-len(items) // count)
    return items[start % stride :: stride]


@cache
def _numerical(module: ModuleType) -> bool:
    """Whether tensors are computed there: it imports torch, or something from a module of ours that does."""
    named = [module, *(sys.modules[name] for name in _imported(module) if name in sys.modules)]
    ours = [one for one in named if _OURS in Path(getattr(one, "__file__", None) or "").parents]
    return any("torch" in _imported(one) for one in ours)


@cache
def _imported(module: ModuleType) -> frozenset[str]:
    """What a module's source names in its imports, modules and what is taken from them."""
    file = getattr(module, "__file__", None)
    nodes = list(ast.walk(ast.parse(Path(file).read_text()))) if file else []
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            name = resolve_name("." * node.level + (node.module or ""), module.__package__)
            names |= {name, *(f"{name}.{alias.name}" for alias in node.names)}
    return frozenset(names)


CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")],
)


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that there is; CUDA is skipped, visibly, where there is none."""
    return str(request.param)
