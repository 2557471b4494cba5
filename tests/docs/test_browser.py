"""The built site in a browser, every page, wide and narrow, light and dark: ``make docs-test``."""

from __future__ import annotations

import functools
import http.server
import os
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from browsing import NO_BROWSER

BUILT = os.environ.get("GRADCHECK_DOCS_HTML", "")
ROOT = Path(BUILT).resolve() if BUILT else None

pytestmark = pytest.mark.skipif(ROOT is None, reason="opens every page in a browser: run it by `make docs-test`")
in_browser = pytest.mark.skipif(bool(NO_BROWSER), reason=NO_BROWSER)

ALONE = "pulls.html"
"""The interactive page, which is no part of the theme: ``test_interactive_page.py`` opens it."""
PAGES = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.html")) if ROOT else ["no site was built"]
PAGES = [name for name in PAGES if name != ALONE]
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}


def test_katex_is_whole_and_local() -> None:
    assert ROOT is not None
    folder = ROOT / "_static" / "katex"
    style, script = ((folder / f"katex.min.{kind}").read_text() for kind in ("css", "js"))
    version = re.search(r'\.katex-version::?after\{content:"([\d.]+)"\}', style)
    assert version
    assert f'version:"{version[1]}"' in script, "style and script are of two versions"
    assert set(re.findall(r"url\(fonts/([\w-]+\.woff2)\)", style)) == {p.name for p in (folder / "fonts").iterdir()}


UNRENDERED = re.compile(
    r"\$\$|\$[^$\n]{1,300}\$|\\[(\[]"
    r"|\\(?:frac|left|right|text|math\w+|theta|varepsilon|Delta|nabla|beta)\b"
    r"|\{\w+\}`|:(?:py:)?(?:class|func|data|attr|meth|mod|obj):"
)
"""Formulas and roles that stand in the page as they were written."""

LOOK = r"""() => {
  for (const d of document.querySelectorAll("details")) d.open = true;
  const hidden = "code, pre, script, style, textarea, .katex, .katex-error, .sig, template";
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const words = [];
  while (walker.nextNode()) {
    if (!walker.currentNode.parentElement.closest(hidden)) words.push(walker.currentNode.data);
  }
  const images = [...document.querySelectorAll("article img")];
  const formulas = [...document.querySelectorAll(".formula")];
  return {
    text: words.join("\n"),
    errors: [...document.querySelectorAll(".katex-error, mjx-merror")].map((e) => e.title || e.textContent),
    blank: formulas.filter((f) => !f.querySelector(".katex-html")).length,
    unsized: formulas.filter((f) => f.getClientRects().length && f.getBoundingClientRect().height < 4).length,
    mute: images.filter((i) => !i.alt.trim()).map((i) => i.src),
    broken: images.filter((i) => !(i.complete && i.naturalWidth)).map((i) => i.src),
    fonts: [...document.fonts].filter((f) => f.status === "error").map((f) => f.family),
  };
}"""

WIDTH = r"""() => {
  const frames = ["html", "body", ".page", ".main", ".content"].map((f) => document.querySelector(f));
  if (!frames.some((e) => e && e.scrollWidth > e.clientWidth + 1)) return [];
  const boxed = (e) => ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX);
  const scrolls = (e) => e.tagName !== "ARTICLE" && (boxed(e) || scrolls(e.parentElement));
  return [...document.querySelectorAll("article *")]
    .filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1 && !scrolls(e.parentElement))
    .map((e) => `${e.tagName} ${e.className}: ${e.textContent.trim().slice(0, 60)}`).slice(0, 3).concat("too wide");
}"""

CONTRAST = r"""() => {
  const rgb = (c) => c.match(/[\d.]+/g).map(Number);
  const shine = (c) => { const [r, g, b] = rgb(c).slice(0, 3).map((x) => { x /= 255;
    return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (rgb(c).length < 4 || rgb(c)[3] > 0.5) return shine(c); } return 1; };
  const faint = [];
  for (const e of document.querySelectorAll("article :is(p, li, td, th, h1, h2, h3, a, .formula)")) {
    if (!e.getClientRects().length || !e.textContent.trim()) continue;
    const [a, b] = [shine(getComputedStyle(e).color), ground(e)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(`${e.tagName}: ${e.textContent.trim().slice(0, 40)}`);
  }
  const shines = [...document.querySelectorAll("article img")].map((i) => ground(i));
  return { page: ground(document.body), faint: faint.slice(0, 3), pictures: shines.filter((s) => s < 0.8).length };
}"""


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(ROOT)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def unrendered(text: str) -> list[str]:
    """Pieces of a page's text that look like source."""
    return UNRENDERED.findall(text)


@in_browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page(name: str, site: str, browser: Any) -> None:
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda r: complaints.append(f"asks {r.url}") if urlsplit(r.url).hostname != "127.0.0.1" else None
    )
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    try:
        for device, (width, height) in WIDTHS.items():
            for scheme in ("light", "dark"):
                page.set_viewport_size({"width": width, "height": height})
                page.emulate_media(color_scheme=scheme)
                if (device, scheme) == ("desktop", "light"):
                    page.goto(f"{site}/{name}", wait_until="load")
                    page.wait_for_function("document.documentElement.dataset.formulas === 'done'", timeout=20_000)
                    page.evaluate("document.fonts.ready.then(() => 0)")
                    seen = page.evaluate(LOOK)
                    text = seen.pop("text")
                    assert not {what: found for what, found in seen.items() if found}
                    assert not unrendered(text)
                assert page.evaluate(WIDTH) == [], f"too wide on a {device}"
                colours = page.evaluate(CONTRAST)
                assert (colours["page"] > 0.5) == (scheme == "light"), f"not {scheme}"
                assert colours["faint"] == [], f"hard to read: {device}, {scheme}"
                assert colours["pictures"] == 0, "a picture drawn for white paper lies on a dark ground"
        assert complaints == []
    finally:
        page.close()


@in_browser
def test_the_eye_is_sharp(site: str, browser: Any) -> None:
    """What each look must find is found in a page that has it."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{site}/index.html")
    page.wait_for_function("document.documentElement.dataset.formulas === 'done'")
    page.evaluate(
        r"""() => {
          const put = (markup) => document.querySelector("article").insertAdjacentHTML("beforeend", markup);
          put('<p>$a_1$</p><p style="color: #ddd; background: #fff">pale</p><img src="none.png">');
          put('<div style="width: 900px">wide</div><span class="formula"></span>');
          const bad = document.createElement("span"); document.querySelector("article").append(bad);
          katex.render("\\frac{", bad, { throwOnError: false });
        }"""
    )
    seen = page.evaluate(LOOK)
    assert seen["errors"]
    assert seen["mute"]
    assert seen["broken"]
    assert seen["blank"]
    assert unrendered(seen["text"]) == ["$a_1$"]
    assert page.evaluate(WIDTH)
    assert page.evaluate(CONTRAST)["faint"]
    page.close()


FOUND = "[...document.querySelectorAll('#search-results ul.search > li > a')].map((a) => a.getAttribute('href'))"


@in_browser
@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("awm", "generated/algorithms/awm.html"),
        ("DiffusionNFT", "generated/algorithms/diffusion-nft.html"),
        ("flow_grpo", "generated/algorithms/flow-grpo.html"),
        ("guard", "generated/algorithms/grpo-guard.html"),
        ("clip", ""),
        ("ratio", ""),
        ("advantage", ""),
        ("unveil", ""),
    ],
)
def test_search_finds_what_is_written_for_readers_before_modules(
    words: str, first: str, site: str, browser: Any
) -> None:
    page = browser.new_page()
    page.goto(f"{site}/search.html?q={words.replace(' ', '+')}")
    page.wait_for_function("document.querySelector('#search-results .search-summary')?.textContent.includes('found')")
    found = page.evaluate(FOUND)
    page.close()
    assert found
    assert first in ("", found[0])
    reference = [link.startswith(("generated/api/", "generated/sources/", "py-modindex")) for link in found]
    assert not reference[0]
    assert reference == sorted(reference), "a module stands before a page"


FOLDED = """(id) => {
  const place = document.getElementById(id), box = place.closest("details");
  return { folded: Boolean(box), open: Boolean(box?.open), shown: box ? place.parentElement.checkVisibility() : true };
}"""


@in_browser
@pytest.mark.parametrize("arrival", ["with the page", "on the page"])
def test_a_link_to_a_folded_step_unfolds_it(arrival: str, site: str, browser: Any) -> None:
    page, id_ = browser.new_page(), "step-awm-mean-gradient"
    page.goto(f"{site}/generated/algorithms/awm.html" + (f"#{id_}" if arrival == "with the page" else ""))
    page.wait_for_function("document.documentElement.dataset.formulas === 'done'")
    if arrival == "on the page":
        assert page.evaluate(FOLDED, id_) == {"folded": True, "open": False, "shown": False}
        page.evaluate("(id) => { location.hash = id; }", id_)
    page.wait_for_function(f"document.getElementById({id_!r}).closest('details').open")
    assert page.evaluate(FOLDED, id_) == {"folded": True, "open": True, "shown": True}
    page.close()


@in_browser
@pytest.mark.parametrize("name", ["index.html", "start.html", "oracle.html", "watch.html", "generated/bugs.html"])
def test_tables_of_what_people_read_first_are_whole_on_a_desktop(name: str, site: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{site}/{name}")
    page.wait_for_function("document.documentElement.dataset.formulas === 'done'")
    tables = page.evaluate(
        "[...document.querySelectorAll('article .table-wrapper')].map((t) => [t.scrollWidth, t.clientWidth])"
    )
    page.close()
    assert tables or name == "start.html"
    assert all(needed <= had for needed, had in tables)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.ids |= {v for k in ("id", "name") if (v := found.get(k))}
        self.links += [v for k in ("href", "src") if (v := found.get(k))]


@functools.cache
def parsed(path: Path) -> _Links:
    parser = _Links()
    parser.feed(path.read_text())
    return parser


@pytest.mark.parametrize("name", PAGES)
def test_links_inside_the_site_lead_somewhere(name: str) -> None:
    assert ROOT is not None
    path = ROOT / name
    dead = []
    for link in parsed(path).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        if not target.is_file() or (
            parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in parsed(target).ids
        ):
            dead.append(link)
    assert dead == []
