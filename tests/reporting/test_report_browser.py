"""The report in a browser: nothing goes wrong, nothing is loaded, all can be read and reached."""

import json

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scsiameseclu_jax as scs
from scsiameseclu_jax.pl.colors import palette
from tests.browser import PROGRAM, Browser
from tests.reports import assessed, clustered, marked, typed

WIDTHS = (400, 1600)
HARMFUL = '</script><img src="x" onerror="window.harmed = 1"><script>window.harmed = 1</script>'
# Least contrast (WCAG 2.2, AA) of all words with what is behind them, and where it is.
CONTRAST = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => {
    const [r, g, b] = rgb.slice(0, 3).map(v => v / 255).map(
      v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color[3] !== 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.getClientRects().length) continue;
    if (element.closest("script, option")) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const [a, b] = [light(parse(style.color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05) / (large ? 3 : 4.5);
    found.push([ratio, element.outerHTML.slice(0, 200)]);
  }
  return found.sort((x, y) => x[0] - y[0])[0];
})()"""
# What the map says of the cell that is chosen, and where on the canvas its ring is not asked for.
TIP = (
    "document.querySelector('.map-tip').hidden ? '' : document.querySelector('.map-tip').innerText"
)
SAID = "document.querySelector('.map-status').textContent"
INK = """(() => {
  const canvas = document.querySelector(".map-canvas"), copy = canvas.cloneNode();
  const pen = copy.getContext("2d", {willReadFrequently: true});
  pen.drawImage(canvas, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  const colors = new Map();
  for (let i = 0; i < pixels.length; i += 4) {
    const color = pixels.slice(i, i + 3).join(" ");
    colors.set(color, (colors.get(color) || 0) + 1);
  }
  return Object.fromEntries([...colors].filter(([, n]) => n > 20));
})()"""

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser():
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A report with names that are too long, and others that would do harm."""
    names = ["a cluster of a long name " * 3, "unbreakable" * 12, HARMFUL]
    adata = typed(marked(assessed(clustered(names=names))))
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(lambda n: n * 9)
    adata.obs[HARMFUL] = adata.obs["cell_type"]
    adata.uns["siameseclu"]["manifest"]["warnings"] = ["w" * 300]
    adata.obs.loc[adata.obs_names[0], "siameseclu_confidence"] = np.nan
    found = tmp_path_factory.mktemp("browser") / "report.html"
    scs.report(adata, found, labels=HARMFUL, title="title" * 30)
    return found


@pytest.fixture
def page(browser, path):
    """The report in a wide window."""
    browser.open(path, scheme="light", script=True)
    return browser


def canvas(page):
    """Return where the map is in the window."""
    where = page.evaluate(
        "(() => { const c = document.querySelector('.map-canvas'); "
        "c.scrollIntoView({behavior: 'instant'});"
        "const r = c.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })()"
    )
    return np.array(where)


def rgb(color):
    """Return a colour as the names of pixels have it."""
    return " ".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))


def cells(page):
    """Return where cells are on the map, 0 to 1, and their clusters."""
    data = json.loads(page.evaluate("document.getElementById('map-data').textContent"))
    x, y = (page.evaluate(f"[...atob('{data[axis]}')].map(c => c.charCodeAt(0))") for axis in "xy")
    field = data["fields"][0]
    codes = page.evaluate(f"[...atob('{field['codes']}')].map(c => c.charCodeAt(0))")
    unit = np.stack([np.array(v, np.uint8).view("<u2") for v in (x, y)], axis=1) / 65535
    return unit, np.array(codes), field["names"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_are_quiet_fit_and_can_be_read(browser, path, width, scheme):
    browser.open(path, width, scheme=scheme, script=True)
    assert browser.complaints() == []
    assert [name for name in browser.loaded() if not name.startswith("data:")] == [path.as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    # The contents are a line above the page where there is no room beside it.
    contents = browser.evaluate("getComputedStyle(document.querySelector('nav ol')).display")
    assert contents == ("flex" if width < 1000 else "block")
    images = browser.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.offsetWidth])"
    )
    assert len(images) == 11
    assert all(complete and natural for complete, natural, _ in images)
    # The map is in the place of the first.
    assert [wide > 300 for *_, wide in images] == [False, *10 * [True]]
    heads = browser.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert "Marker genes" in heads
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    ratio, where = browser.evaluate(CONTRAST)
    assert ratio >= 1, where


def test_names_are_words_only(page):
    assert page.evaluate("window.harmed") is None
    text = page.evaluate("document.querySelector('.map-legend').innerText")
    assert HARMFUL in text
    found = page.evaluate("[...document.querySelector('.map-color').options].map(o => o.text)")
    assert found == [
        "Cluster",
        "Annotation",
        "Type, transferred",
        HARMFUL,
        "Confidence",
    ]


def test_all_cells_are_drawn_in_the_colours_of_their_clusters(page):
    ink = page.evaluate(INK)
    assert min(ink[rgb(color)] for color in palette(3)) > 100


def test_a_cell_is_named_where_the_mouse_is(page):
    x, y, width, height = canvas(page)
    unit, codes, names = cells(page)
    i = int(
        np.argmax(
            np.linalg.norm(unit[:, None] - unit, axis=2).min(
                1, where=~np.eye(90, dtype=bool), initial=9
            )
        )
    )
    at = [x + 18 + unit[i, 0] * (width - 36), y + 18 + unit[i, 1] * (height - 36)]
    page.mouse("Moved", *at)
    page.mouse("Moved", *at)
    told = page.evaluate(TIP)
    assert f"Cluster: {names[codes[i]]}".split("\n")[0] in told
    assert "Confidence: 0.9" in told
    assert "Annotation: kind" in told
    page.mouse("Moved", x + width + 5, y - 5)
    assert page.evaluate(TIP) == ""


def test_zoom_moves_and_resets(page):
    x, y, width, height = canvas(page)
    whole = page.evaluate(INK)
    middle = [x + width / 2, y + height / 2]
    page.mouse("Wheel", *middle, deltaX=0, deltaY=-300, modifiers=2)  # Ctrl
    zoomed = page.evaluate(INK)
    assert zoomed != whole
    page.mouse("Pressed", *middle, button="left", buttons=1)
    page.mouse("Moved", middle[0] + 80, middle[1] + 60, button="left", buttons=1)
    page.mouse("Released", middle[0] + 80, middle[1] + 60, button="left")
    page.mouse("Moved", 1, 1)
    assert page.evaluate(INK) != zoomed
    page.evaluate("document.querySelector('.map-reset').click()")
    assert page.evaluate(INK) == whole
    before = page.evaluate("scrollY")
    page.mouse("Wheel", *middle, deltaX=0, deltaY=100)
    page.evaluate("new Promise(done => setTimeout(done, 300))")
    assert page.evaluate("scrollY") > before  # alone it scrolls the page
    assert page.complaints() == []


def test_the_map_by_keyboard(page):
    whole = page.evaluate(INK)
    seen = []
    for _ in range(60):
        page.press("Tab")
        seen.append(page.evaluate("document.activeElement.className || document.activeElement.id"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(outline.removesuffix("px")) >= 2, seen
        if seen[-1] == "map-canvas":
            break
    assert {"skip", "map-color", "map-in", "map-out", "map-reset"} <= set(seen)
    first = page.evaluate(SAID)
    assert first.startswith("Cluster ")
    _, _, names = cells(page)
    found = set()
    for _ in range(4):
        page.press("PageDown")
        found.add(page.evaluate(SAID))
    assert len(found) == 3
    assert {next(n for n in names if n in said) for said in found} == set(names)
    places = []
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"):
        page.press(key)
        places.append(page.evaluate(TIP))
    assert all(places)
    page.press("+")
    page.press("ArrowRight", shift=True)
    assert page.evaluate(INK) != whole
    page.press("Escape")
    assert page.evaluate(TIP) == ""
    page.press("0")
    assert page.evaluate(INK) == whole
    # The legend is one stop, and arrows go through it.
    page.press("Tab")
    page.press("ArrowRight")
    page.press("Enter")
    pressed = "[...document.querySelectorAll('.map-legend [aria-pressed=true]')].map(b => b.value)"
    assert page.evaluate(pressed) == ["1"]
    colors = [rgb(color) in page.evaluate(INK) for color in palette(3)]
    assert colors == [False, True, False]
    page.press("Enter")
    assert page.evaluate(pressed) == []
    assert page.evaluate(INK) == whole


def test_only_boxes_that_scroll_are_stops_of_the_tab_key(page):
    found = page.evaluate("""[...document.querySelectorAll(".scroll")].map(
        b => [b.tabIndex, b.scrollWidth > b.clientWidth || b.scrollHeight > b.clientHeight])""")
    assert {scrolls for _, scrolls in found} == {True, False}
    assert all((tab == 0) == scrolls for tab, scrolls in found)


def test_colour_by_what_else_is_known(page):
    by = "(i => { const c = document.querySelector('.map-color'); c.value = i;"
    by += "c.dispatchEvent(new Event('change')); })"
    whole = page.evaluate(INK)
    page.evaluate(f"{by}(4)")
    assert page.evaluate(INK) != whole
    shown = "[...document.querySelectorAll('.map-scale, .map-legend')].map(e => e.offsetHeight > 0)"
    assert page.evaluate(shown) == [False, True]
    page.evaluate(f"{by}(0)")
    assert page.evaluate(INK) == whole
    assert page.evaluate(shown) == [True, False]


def test_without_scripts_and_on_paper_there_is_the_picture(browser, path):
    shown = "[...document.querySelectorAll('.still img, #map')].map(e => e.offsetHeight > 0)"
    browser.open(path, media="print", script=True)
    assert browser.evaluate(shown) == [True, False]
    # Without scripts: those of the page, while the test's still run.
    browser.open(path, script=False)
    assert browser.evaluate(shown) == [True, False]
    browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_the_rules_of_the_page_hold(page):
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harmed=1\">');"
        "const s = document.createElement('script'); s.textContent = 'window.harmed = 2';"
        "document.body.append(s);"
    )
    page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.evaluate("window.harmed") is None
    assert page.complaints()  # of what was refused


@pytest.mark.slow
def test_many_cells_are_a_sample_over_their_density(browser, tmp_path):
    n = 100_000
    adata = clustered(300, 12)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(0, 300, n))
    rows[:300] = np.arange(300)
    obs = adata.obs.iloc[rows].set_index(pd.RangeIndex(n).astype(str))
    umap = adata.obsm["X_siameseclu_umap"][rows] + rng.normal(size=(n, 2)).astype(np.float32)
    obsm = {name: adata.obsm[name][rows] for name in ("X_siameseclu", "siameseclu_proba")}
    tiled = AnnData(obs=obs, obsm=obsm | {"X_siameseclu_umap": umap}, uns=adata.uns)
    path = tmp_path / "many.html"
    scs.report(tiled, path, markers=False)
    assert path.stat().st_size < 5e6
    browser.open(path, script=True)
    assert browser.complaints() == []
    assert "a sample of 20,0" in browser.evaluate("document.querySelector('#map').innerText")
    assert len(cells(browser)[0]) >= 20_000
