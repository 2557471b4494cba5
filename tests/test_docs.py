"""What the guides say agrees with the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import yaml

from derivations.on_top import ON_TOP
from gradcheck.catalogue import ALGORITHMS
from gradcheck.conventions import PRESETS, Conventions
from gradcheck.oracle.obligations import OBLIGATIONS

GUIDE = (Path(__file__).parent.parent / "docs" / "oracle.md").read_text()


def test_every_obligation_is_in_the_guide() -> None:
    listed = re.findall(
        r"^\| `([a-z-]+)` \|", GUIDE.partition("## Obligations")[2].partition("## Reading")[0], re.MULTILINE
    )
    assert listed == [o.id for o in OBLIGATIONS]


def test_every_convention_is_in_the_guide() -> None:
    table = GUIDE.partition("## What to declare")[2].partition("## Obligations")[0]
    names = {f.name for f in fields(Conventions)} - {"algorithm", "options", "on_top", "fixed"}
    names |= set(ON_TOP)
    names |= {option for algorithm in ALGORITHMS for option in algorithm.options}
    for name in names:
        assert f"`{name}`" in table, name
    for preset in PRESETS:
        assert f"`{preset}`" in table, preset


def test_the_workflows_are_yaml() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert len(blocks) == 2
    workflow, hook = (yaml.safe_load(block) for block in blocks)
    assert "gradcheck check" in workflow["jobs"]["losses"]["steps"][-1]["run"]
    assert "gradcheck check" in hook["repos"][0]["hooks"][0]["entry"]


def test_every_place_on_the_map_is_there() -> None:
    """A file that moves takes its row of the internals' page along."""
    root = Path(__file__).parent.parent
    page = (root / "docs" / "internals.md").read_text()
    places = set(re.findall(r"`([\w./*]+(?:/|\.py|\.md))`", page)) | set(re.findall(r"\]\(([\w/]+\.md)\)", page))
    assert len(places) > 40
    for place in places:
        assert any(list((root / room).glob(place)) for room in (".", "gradcheck", "derivations", "docs")), place
