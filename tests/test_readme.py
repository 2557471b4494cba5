"""The README keeps its word: its table is the derivations', and its code runs as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradcheck.catalogue import closing_table
from gradcheck.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_table_is_the_derivations() -> None:
    found = re.search(r"<!-- table: gradcheck table -->\n(.*)\n<!-- end of table -->", README, re.DOTALL)
    assert found
    assert found.group(1) == closing_table(), "paste the output of 'gradcheck table' into README.md"


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_runs(code: str) -> None:
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)


def test_the_files_named_exist() -> None:
    root = Path(__file__).parent.parent
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / path).exists(), path
    for path in re.findall(r"`((?:derivations|gradcheck|tests|docs)/[\w/]+\.(?:py|md|png))`", README):
        assert (root / path).exists() or "yours" in path, path


def test_the_oracle_example_conforms_and_its_mistake_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = next(block for block in BLOCKS if "conforms" in block)
    file = tmp_path / "test_my_losses.py"
    file.write_text(example)
    assert main(["check", str(file)]) == 0
    assert "test_guard conforms" in capsys.readouterr().out
    right = "(2 * std**2)).flatten(1).mean(1)"
    assert right in example
    file.write_text(example.replace(right, "(2 * std**2)).mean()"))
    assert main(["check", str(file)]) == 1
    answer = capsys.readouterr().out
    quoted = re.search(r"^  because    (.*)$", README, re.MULTILINE)
    assert quoted
    assert quoted.group(0) in answer
