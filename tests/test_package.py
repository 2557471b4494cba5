"""The package as a stranger gets it: built, unpacked, and run where only its required libraries can be imported."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import gradcheck
from gradcheck.extras import EXTRAS

_ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())

_BARE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {missing!r} else found(name, package)
from gradcheck.doors.cli import main
sys.exit(main(sys.argv[1:]))
"""


_LOSS = """
import gradcheck

@gradcheck.conforms("awm")
def {name}(case):
    return {sign}(case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)).mean()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=_ROOT, capture_output=True, check=True).stdout.decode()
    for name in tracked.split("\0"):
        if name.split("/")[0] in ("gradcheck", "derivations", "pyproject.toml", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((_ROOT / name).read_bytes())
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def _bare(wheel: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line from the wheel, where no extra is installed."""
    missing = {*EXTRAS, "jax", "jsonschema", "nbformat", "IPython"}
    return subprocess.run(
        [sys.executable, "-c", _BARE.format(missing=missing), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_wheel_holds_the_packages_their_types_and_the_licence(wheel: Path) -> None:
    names = {str(p.relative_to(wheel)) for p in wheel.rglob("*") if p.is_file()}
    assert {"gradcheck/py.typed", "derivations/py.typed", "gradcheck/reports/schema.json"} <= names
    assert any(n.endswith("LICENSE") for n in names)
    studies = ("gradcheck/toy/", "gradcheck/plots/", "gradcheck/notebook/")
    assert not [n for n in names if n.startswith(studies)]
    tops = {n.split("/")[0] for n in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gradcheck", "derivations"}


def test_only_torch_numpy_and_sympy_are_required() -> None:
    """Whoever installs this gets no plugin of another tool, no notebook and no plotting library."""
    required = {r.split(">")[0].strip() for r in _PROJECT["project"]["dependencies"]}
    assert required == {"torch", "numpy", "sympy"}


def test_every_extra_is_one_that_the_package_has() -> None:
    extras = _PROJECT["project"]["optional-dependencies"]
    for library, extra in EXTRAS.items():
        assert any(line.startswith(library) for line in extras[extra]), library


def test_there_is_one_version_string(wheel: Path) -> None:
    assert next(wheel.glob("gradcheck_rl-*.dist-info")).name == f"gradcheck_rl-{gradcheck.__version__}.dist-info"


def test_without_any_extra_a_loss_is_judged(wheel: Path, tmp_path: Path) -> None:
    file = tmp_path / "losses.py"
    file.write_text(_LOSS.format(name="right", sign="") + _LOSS.format(name="wrong", sign="-"))
    found = _bare(wheel, "check", f"{file}::right", "--max-examples", "2", cwd=tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    found = _bare(wheel, "check", f"{file}::wrong", "--max-examples", "2", cwd=tmp_path)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "sign" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "library", "extra"),
    [
        (("verify",), "hypothesis", "test"),
        (("check", "losses.py", "--html", "page.html"), "matplotlib", "plots"),
        (("vectors", "export", "--out", "folder"), "safetensors", "vectors"),
    ],
)
def test_what_needs_an_extra_names_it(
    wheel: Path, tmp_path: Path, arguments: tuple[str, ...], library: str, extra: str
) -> None:
    found = _bare(wheel, *arguments, cwd=tmp_path)
    assert found.returncode == 2
    (line,) = found.stderr.strip().splitlines()
    assert f"without {library}" in line
    assert f"pip install 'gradcheck-rl[{extra}]'" in line


def test_derive_and_explain_need_no_extra(wheel: Path, tmp_path: Path) -> None:
    for arguments in (("derive", "A*norm2(v_theta - v_gt)", "--problems", "1"), ("explain", "awm"), ("list",)):
        found = _bare(wheel, *arguments, cwd=tmp_path)
        assert found.returncode == 0, found.stderr


# what an editable install adds finds our submodules behind any package of their name
_PLAIN = "import sys; sys.meta_path[:] = [x for x in sys.meta_path if 'editable' not in repr(x).lower()]; "
_DOORS = ["import gradcheck; gradcheck.conforms", "from gradcheck.__main__ import main; main(['explain', 'awm'])"]


@pytest.mark.parametrize("first", ["theirs", "ours"])
@pytest.mark.parametrize("door", _DOORS, ids=["library", "command line"])
@pytest.mark.parametrize("module", ["derivations.py", "derivations/__init__.py"])
def test_another_module_named_derivations_is_told(
    wheel: Path, tmp_path: Path, module: str, door: str, first: str
) -> None:
    other = tmp_path / "theirs" / module
    other.parent.mkdir(parents=True)
    other.write_text("")
    folders = [tmp_path / "theirs", wheel]
    path = os.pathsep.join(map(str, folders if first == "theirs" else reversed(folders)))
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN + door],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    where = other.parent if other.name == "__init__.py" else other
    told = f"another module 'derivations' than gradcheck's, at {where}"
    assert (told in done.stderr) == (first == "theirs"), done.stderr
    assert "failed itself" not in done.stderr


# ``python -m`` puts the folder of work first on the path
_PYTHON_M = (
    "import runpy, sys; sys.argv = ['gradcheck', 'explain', 'awm']; runpy.run_module('gradcheck', run_name='__main__')"
)


@pytest.mark.parametrize(
    ("name", "door"),
    [(name, _PYTHON_M) for name in ("random", "typing", "dataclasses", "torch")]
    + [(name, _DOORS[0]) for name in ("inspect", "numpy")],
)
def test_a_file_with_the_name_of_a_module_that_is_needed_is_told(tmp_path: Path, name: str, door: str) -> None:
    """Whatever it lacks: the error names the file to rename, and is none of gradcheck's own mistakes."""
    file = tmp_path / f"{name}.py"
    file.write_text("mine = 1\n")
    done = _among(tmp_path, door)
    assert done.returncode != 0
    assert f"another module {name!r} than" in done.stderr
    assert str(file) in done.stderr
    assert "failed itself" not in done.stderr


def test_a_shadow_in_the_folder_of_what_is_judged_is_told(tmp_path: Path) -> None:
    """That folder comes first on the path only once the command runs."""
    (tmp_path / "secrets.py").write_text("mine = 1\n")
    file = tmp_path / "losses.py"
    file.write_text("import secrets\nsecrets.token_hex()\n" + _LOSS.format(name="right", sign=""))
    code = f"import sys; del sys.path[0]; from gradcheck.__main__ import main; main(['check', {str(file)!r}])"
    done = _among(tmp_path, code)
    assert "another module 'secrets' than Python's own" in done.stdout + done.stderr


def test_a_file_that_shadows_nothing_needed_is_not_blamed(tmp_path: Path) -> None:
    """An error that has nothing to do with the other files keeps its own words."""
    (tmp_path / "helpers.py").write_text("mine = 1\n")
    done = _among(tmp_path, "import gradcheck, helpers; gradcheck.of_no_such_name")
    assert "another module" not in done.stderr
    assert "has no attribute 'of_no_such_name'" in done.stderr


def _among(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a folder that is first on Python's path."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ}, capture_output=True, text=True, check=False
    )
