"""The report in a browser: nothing goes wrong, nothing is loaded, nothing is too wide."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest

import scsiameseclu_jax as scs
from tests.reports import assessed, clustered, marked, typed

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = (400, 1600)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
]

# A frame for each width; what is found in them is left as text of the page around them.
FRAMES = """<!DOCTYPE html><meta charset="utf-8"><body>{frames}<pre id="found"></pre><script>
addEventListener("load", () => {{
  document.getElementById("found").textContent = JSON.stringify(
    [...document.querySelectorAll("iframe")].map(frame => {{
      const page = frame.contentDocument, root = page.documentElement;
      return {{
        width: frame.contentWindow.innerWidth,
        scroll: root.scrollWidth,
        images: [...page.images].map(image => image.complete && image.naturalWidth),
        shown: [...page.images].map(image => image.getBoundingClientRect().width),
        loaded: frame.contentWindow.performance.getEntriesByType("resource").map(e => e.name),
        contents: getComputedStyle(page.querySelector("nav ol")).display,
        heads: [...page.querySelectorAll("h2")].map(head => head.textContent),
      }};
    }}));
}});</script>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What a browser makes of a report, and what it writes to its console."""
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    folder = tmp_path_factory.mktemp("browser")
    long = ["a cluster of a long name " * 3, "unbreakable" * 12, "2"]
    adata = typed(marked(assessed(clustered(names=long))))
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(lambda n: n * 9)
    adata.uns["siameseclu"]["manifest"]["warnings"] = ["w" * 300]
    scs.report(adata, folder / "report.html", labels="cell_type", title="title" * 30)
    page = html.escape((folder / "report.html").read_text("utf-8"))
    frames = "".join(f'<iframe width="{w}" height="900" srcdoc="{page}"></iframe>' for w in WIDTHS)
    (folder / "frames.html").write_text(FRAMES.format(frames=frames), "utf-8")
    words = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    words.append((folder / "frames.html").as_uri())
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]
    return json.loads(html.unescape(found)), done.stderr


def test_console_is_empty_and_nothing_is_loaded(seen):
    found, log = seen
    assert not [line for line in log.splitlines() if "CONSOLE" in line]
    for frame in found:
        assert not [name for name in frame["loaded"] if not name.startswith("data:")]


def test_images_are_drawn(seen):
    found, _ = seen
    for frame in found:
        assert len(frame["images"]) == 10
        assert min(frame["images"]) > 0
        assert min(frame["shown"]) > 300
        assert "Marker genes" in frame["heads"]


@pytest.mark.parametrize("i", range(len(WIDTHS)))
def test_page_is_not_wider_than_the_window(seen, i):
    frame = seen[0][i]
    assert frame["width"] == WIDTHS[i]
    assert frame["scroll"] <= WIDTHS[i]
    # The contents are a line above the page where there is no room beside it.
    assert frame["contents"] == ("flex" if WIDTHS[i] < 1000 else "block")
