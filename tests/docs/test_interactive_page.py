"""The interactive page in a browser, dragged and slid, narrow, dark and offline: it shows gradcheck's targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browsing import NO_BROWSER

from gradcheck import make_case, target
from gradcheck.catalogue import Entry, entries
from gradcheck.plots.interactive import LOSSES

PAGE = Path(__file__).parents[2] / "docs" / "assets" / "pulls.html"
ENTRIES = {e.label: e for e in entries(*LOSSES)}
POINTS = ("v_theta", "v_old", "v_gt", "noise")

pytestmark = pytest.mark.skipif(bool(NO_BROWSER), reason=NO_BROWSER)


@pytest.fixture(params=["desktop, light", "phone, dark"])
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    """The page as a file, with the network off; it asks for nothing and complains of nothing."""
    device, scheme = request.param.split(", ")
    width, height = {"desktop": (1280, 900), "phone": (390, 844)}[device]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=device == "phone"
    )
    context.set_offline(True)
    shown, complaints = context.new_page(), []
    shown.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("request", lambda r: complaints.append(f"asks {r.url}") if r.url != PAGE.as_uri() else None)
    shown.goto(PAGE.as_uri())
    # In units of C2 = Δt = 1 no reverse step is one: from t to t − 1.
    shown.evaluate("Object.assign(state.q, {C2: 0.5, dt: 0.05}); draw()")
    yield shown
    assert complaints == []
    context.close()


def required(e: Entry, q: dict[str, Any]) -> tuple[float, list[float]]:
    """:func:`gradcheck.target` of the page's setting: for a Flow-SDE step, that with its C1, C2 and Δt."""
    latent = {name: torch.tensor([q[name]], dtype=torch.float64) for name in POINTS}
    # C1 = Δt (1 + (1−t) σ²/(2t)) and C2 = σ √Δt, solved for t and for σ's factor
    t = 1 / (1 + 2 * (q["C1"] - q["dt"]) / q["C2"] ** 2)
    sample = {"advantage": q["advantage"], "reward_prob": (1 + q["advantage"]) / 2, "t": t, "dt": q["dt"]}
    given = {
        **latent,
        **{name: torch.tensor([value], dtype=torch.float64) for name, value in sample.items()},
        "x_0": latent["noise"] - latent["v_gt"],
        "x_t": torch.zeros(1, 2, dtype=torch.float64),
        "noise_level": q["C2"] * math.sqrt((1 - t) / (t * q["dt"])),
        **{name: q[name] for name in ("beta", "clip_low", "clip_high")},
    }
    case = make_case(e.algorithm.name, e.variant, **{name: given[name] for name in e.derivation.given if name != "D"})
    weight, point = target(e.algorithm.name, case, variant=e.variant)
    return float(weight.flatten()), point[0].tolist()


def check(page: Any) -> None:
    """What is shown, and what arrow it draws, of every loss."""
    q = page.evaluate("state.q")
    for label, e in ENTRIES.items():
        weight, point = required(e, q)
        found = page.evaluate("(label) => at(state.q, label)", label)
        assert found["weight"] == pytest.approx(weight, rel=1e-12)
        assert found["target"] == pytest.approx(point, rel=1e-9, abs=1e-9)
        row = page.locator("tr", has=page.locator(f"[id='choose-{label}']"))
        cells = [text.replace("−", "-") for text in row.locator("td").all_inner_texts()]
        assert [float(x) for x in cells[2].strip("()").split(",")] == pytest.approx(point, abs=5.1e-4)
        assert float(cells[3]) == pytest.approx(weight, abs=5.1e-4)
        drawn = page.evaluate(
            "(label) => arrows[label].shaft.getAttribute('d').match(/-?[\\d.]+(?:e-?\\d+)?/g)?.map(Number)", label
        )
        if drawn:
            x, y, u, v = drawn
            assert [x, -y, u, -v] == pytest.approx([*q["v_theta"], *point], rel=1e-9, abs=1e-9)


def drag(page: Any, name: str, by: tuple[float, float]) -> None:
    """With the pointer, by that many of the plane's units."""
    box = page.locator(f"#{name} .ring").bounding_box()
    unit = page.locator("#plane").bounding_box()["width"] / 8
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by[0] * unit / 2, y - by[1] * unit / 2)
    page.mouse.move(x + by[0] * unit, y - by[1] * unit)
    page.mouse.up()


def test_what_is_dragged_moves(page: Any) -> None:
    check(page)
    for name, by in (("v_theta", (-1.5, 1.0)), ("v_old", (0.5, -1.0)), ("v_gt", (1.0, 0.5)), ("noise", (0.8, 0.4))):
        before = page.evaluate("state.q")
        drag(page, name, by)
        after = page.evaluate("state.q")
        moved = [a - b for a, b in zip(after[name], before[name], strict=True)]
        assert moved == pytest.approx(by, abs=0.03)  # a pixel of the phone's plane is 0.02 of its units
        assert {k: v for k, v in after.items() if k != name} == {k: v for k, v in before.items() if k != name}
        check(page)
    drag(page, "noise", (9.0, 9.0))
    assert page.evaluate("state.q.noise") == [3.8, 2.8]  # it does not leave the plane
    page.locator("#noise").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("state.q.noise") == pytest.approx([3.75, 2.8])
    check(page)
    page.locator("#on-policy").click()
    assert page.evaluate("at(state.q, 'flow_grpo').ratio") == pytest.approx(1, abs=1e-12)
    check(page)


def test_what_slides_changes_the_targets(page: Any) -> None:
    for name, value in (("advantage", -0.8), ("beta", 1.7), ("C1", 1.3), ("clip_low", 0.05), ("advantage", 0.6)):
        page.locator(f"#slide-{name}").fill(str(value))
        assert page.evaluate(f"state.q.{name}") == value
        check(page)
    assert page.evaluate("state.q.clip_high") == 0.05
    page.locator("#slide-C1").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("state.q.C1") == pytest.approx(1.31)
    check(page)


def test_the_clip_shuts(page: Any) -> None:
    """Where the ratio has left the clip on the side that the advantage asks for, nothing pulls."""
    page.evaluate("Object.assign(state.q, {v_theta: [-1, 1.2], v_old: [0.3, -0.2], noise: [0.7, -1.1]}); draw()")
    check(page)
    row = page.locator("tr", has=page.locator("[id='choose-flow_grpo']"))
    assert "clipped" in row.inner_text()
    assert page.evaluate("arrows.flow_grpo.shaft.getAttribute('d')") == ""
    page.locator("#slide-advantage").fill("-0.7")
    assert "clipped" not in row.inner_text()
    check(page)


@pytest.mark.parametrize("label", ENTRIES)
def test_a_chosen_loss_has_its_formula_and_its_sliders(page: Any, label: str) -> None:
    page.locator(f"[id='choose-{label}']").check()
    assert page.evaluate("state.loss") == label
    assert "target" in page.locator("#formula").inner_text()
    idle = page.evaluate("Object.entries(inputs).filter(([_, x]) => x.row.className === 'idle').map(([name]) => name)")
    before = page.evaluate("at().target.concat(at().weight)")
    for name in idle:
        page.locator(f"#slide-{name}").fill("0.5")
        assert page.evaluate("at().target.concat(at().weight)") == before
    assert page.evaluate("document.getElementById('field').getAttribute('d').length") > 100


CONTRASTS = r"""() => {
  const probe = document.body.appendChild(document.createElement("i"));
  const shine = (colour) => {
    probe.style.color = colour;
    const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map((x) => { x /= 255;
      return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const against = (a, b) => (Math.max(shine(a), shine(b)) + 0.05) / (Math.min(shine(a), shine(b)) + 0.05);
  const cards = ["var(--card)", "var(--chosen)"];
  const worst = (name) => Math.min(...cards.map((card) => against(`var(--${name})`, card)));
  const lines = [0, 1, 2, 3, 4].map((i) => worst(`c${i}`));
  return {card: shine("var(--card)"), text: ["ink", "faint"].map(worst), lines};
}"""


def test_it_fits_and_is_read_in_either_light(page: Any) -> None:
    page.evaluate("Object.assign(state.q, {v_theta: [-3.8, -2.8], v_old: [3.8, 2.8], advantage: -1, C1: 2}); draw()")
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = page.evaluate(CONTRASTS)
    assert (found["card"] > 0.5) == (width > 1000)  # the phone is dark
    assert min(found["text"]) >= 4.5  # WCAG AA, for text and for lines
    assert min(found["lines"]) >= 3
