"""The built site in a real browser: every page, at the width of a laptop and at that of a phone."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from _support import REPOSITORY, require

require("playwright")
require("mkdocs")

LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

# code of 88 columns and formulas fit; longer lines, as in outputs, scroll
WIDTHS = """() => {
  const root = document.documentElement;
  const columns = e => Math.max(...e.textContent.split("\\n").map(line => line.length));
  const cut = [...document.querySelectorAll("article pre > code, article .katex-display")]
    .filter(e => e.scrollWidth > e.clientWidth + 1)
    .filter(e => e.className === "katex-display" || columns(e) <= 88)
    .map(e => e.textContent.trim().slice(0, 60));
  return {page: root.scrollWidth - root.clientWidth, cut};
}"""
CONTENT = """() => ({
  links: [...document.querySelectorAll("a[href]")].map(a => a.href),
  ids: [...document.querySelectorAll("[id]")].map(e => e.id),
  images: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
  formulas: [...document.querySelectorAll(".arithmatex")]
    .filter(e => !e.querySelector(".katex") || e.querySelector(".katex-error"))
    .map(e => e.textContent),
})"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and its address: that of `make docs` if SNNJAX_SITE names it."""
    folder = Path(os.environ.get("SNNJAX_SITE") or tmp_path_factory.mktemp("site")).resolve()
    if "SNNJAX_SITE" not in os.environ:
        build = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        subprocess.run([sys.executable, *build], cwd=REPOSITORY, env=environment, check=True)
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    """Chromium: that of the system or, without one, that of `playwright install chromium`."""
    from playwright.sync_api import Error, sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            message = f"no Chromium: install Debian's package chromium ({error.message[:80]})"
            pytest.skip(message)
        yield started
        started.close()


@pytest.mark.more
def test_every_page_is_whole_at_two_widths(site, browser):
    folder, address = site
    page, problems = browser.new_page(viewport=LAPTOP), []
    page.on("console", lambda m: m.type == "error" and problems.append((page.url, m.text)))
    page.on("pageerror", lambda error: problems.append((page.url, str(error))))
    page.on("requestfailed", lambda request: problems.append((page.url, request.url)))
    page.on("request", lambda r: r.url.startswith((address, "data:")) or problems.append(r.url))
    # every page would build the index of the search again, which takes longer than all the rest
    nothing = json.loads((folder / "search" / "search_index.json").read_text()) | {"docs": []}
    page.route("**/search_index.json", lambda route: route.fulfill(json=nothing))
    links, anchors = {}, {}
    for path in sorted(folder.rglob("*.html")):
        url = address + path.relative_to(folder).as_posix().removesuffix("index.html")
        page.set_viewport_size(LAPTOP)
        page.goto(url, timeout=120_000)
        content, wide = page.evaluate(CONTENT), page.evaluate(WIDTHS)
        page.set_viewport_size(PHONE)
        narrow = page.evaluate(WIDTHS)
        found = {"image": content["images"], "formula": content["formulas"], "cut off": wide["cut"]}
        problems += [(url, what, each) for what, each in found.items() if each]
        for name, excess in (("laptop", wide["page"]), ("phone", narrow["page"])):
            problems += [(url, f"{excess} px wider than a {name}")] if excess > 0 else []
        anchors[path] = set(content["ids"])
        links |= {link: url for link in content["links"] if link.startswith(address)}
    for link, url in links.items():
        target, anchor = urldefrag(link.removeprefix(address))
        path = folder / unquote(target)
        path = path / "index.html" if path.is_dir() else path
        if not path.exists() or (anchor and unquote(anchor) not in anchors.get(path, ())):
            problems.append((url, "link", link))
    assert len(anchors) > 50
    assert not problems, "\n".join(map(str, problems))
    page.close()


TASKS = {
    "DataLoader": "how-to/own-data/",
    "learn time constants": "how-to/own-neuron/",
    "save a model": "how-to/exchange/",
    "batch norm": "how-to/deep-networks/",
    "delays": "how-to/delays/",
    "GPU": "how-to/speed/",
    "early stopping": "how-to/callbacks/",
}


@pytest.mark.more
def test_the_search_finds_the_page_of_a_task_among_the_first_three(site, browser):
    _, address = site
    page, problems = browser.new_page(viewport=LAPTOP), {}
    page.goto(address, timeout=120_000)
    field, items = "input.md-search__input", page.locator(".md-search-result__item > a")
    for words, expected in TASKS.items():
        page.fill(field, "")
        page.press(field, "End")  # the search listens to keys
        items.first.wait_for(state="detached", timeout=60_000)
        page.fill(field, words)
        page.press(field, "End")
        items.first.wait_for(state="attached", timeout=60_000)
        first = [items.nth(k).get_attribute("href") for k in range(min(3, items.count()))]
        pages = [url.removeprefix(address).partition("?")[0].partition("#")[0] for url in first]
        if expected not in pages:
            problems[words] = pages
    assert not problems
    page.close()
