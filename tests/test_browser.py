"""The page in a real browser: search, play, jump, correct, export; phone width; what screen readers are told.

Chromium from the system through Playwright; skipped where one of them is not here. axe-core is not shipped: where
``CUEMARK_AXE`` names a copy of it, its audit runs, too; our own checks of names and contrast always do.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
from tiny_library import HOSTILE, SENTENCE, make_library, pointing

from cuemark.library import Library
from cuemark.segments import Segment, read_truth

pytest.importorskip("fastapi", reason="the server needs the extra: pip install 'cuemark[serve]'")
pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
import uvicorn
from playwright.sync_api import sync_playwright

from cuemark.app.guard import Limits
from cuemark.app.server import create
from cuemark.app.service import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")
AXE = os.environ.get("CUEMARK_AXE")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def made(tiny_world, tiny_text, tmp_path_factory):
    """A library that is served to browsers: its address and itself."""
    folder = make_library(tmp_path_factory.mktemp("browsed"), tiny_world, tiny_text)
    library = Library.open(folder)
    pointing(library)
    duration = library.video("a").duration
    lanes = {"mine": {"a": [Segment(1.0, 3.0, "rocking", 0.7), Segment(4.0, min(6.0, duration), "bouncing", 0.9)]},
             "other": {"a": [Segment(1.2, 3.1, "rocking", 0.4)]}}
    service = Service(library, lanes)
    app = create(service, limits=Limits(rate=1e6, burst=10**6, dear_rate=1e6, dear_burst=10**6))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://localhost:{port}", library
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def tab(browser, made):
    """A function that opens a page; in the end nothing may have been complained about."""
    complaints, contexts = [], []

    def open_page(path: str, size=DESK, scheme="light"):
        context = browser.new_context(viewport=size, color_scheme=scheme, base_url=made[0], accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def where(page) -> float:
    return page.evaluate("document.querySelector('video').currentTime")


def settled(page, wanted: float) -> None:
    """The film stands at a second."""
    page.wait_for_function("to => { const v = document.querySelector('video'); return v && v.readyState >= 2 && "
                           "!v.seeking && Math.abs(v.currentTime - to) < 0.2; }", arg=wanted)


def test_search_play_jump_correct_export(tab, made):
    library = made[1]
    page = tab("/")
    page.keyboard.press("/")
    page.keyboard.type(SENTENCE)
    page.keyboard.press("Enter")
    hit = page.locator(".hit .shot").first
    hit.wait_for()
    assert page.title().startswith(SENTENCE)
    hit.click()
    page.wait_for_selector(".bars .bar[aria-pressed=true]")
    start = float(re.search(r"[?&]t=([\d.]+)", page.url)[1])
    settled(page, start)  # the jump: within 0.2 s of the moment's start
    assert page.locator(".curve svg[role=img]").count() == 1
    assert page.locator(".lane.prediction").count() == 2

    # play, with the key
    page.evaluate("document.querySelector('video').muted = true")
    page.keyboard.press("k")
    page.wait_for_function("from => document.querySelector('video').currentTime > from + 0.3", arg=start)
    page.keyboard.press("k")
    page.wait_for_function("() => document.querySelector('video').paused")

    # another moment, by its bar: jump there
    page.locator(".lane.prediction .bar").nth(1).click()
    settled(page, 1.0)
    assert where(page) == pytest.approx(1.0, abs=0.2)

    # correct its end: on with L and arrows, O sets it, Enter accepts
    page.keyboard.press("Shift+ArrowRight")
    settled(page, 2.0)
    page.keyboard.press("o")
    assert page.locator("[name=end]").input_value() == "0:02.00"
    page.locator("[name=start]").fill("0:01.25")
    page.locator("[name=start]").press("Tab")
    page.get_by_role("button", name="Accept").click()
    page.wait_for_selector(".lane.correction .bar")
    (kept,) = read_truth(library.folder / "corrections.json")["a"].annotations
    assert kept.label == "rocking"
    assert [kept.start, kept.end] == pytest.approx([1.25, 2.0], abs=0.05)

    # export it
    page.locator(".moment").get_by_role("button", name="Export").click()
    with page.expect_download() as told:
        page.locator("dialog [data-format=srt]").click()
    text = Path(told.value.path()).read_text()
    assert told.value.suggested_filename == "a.srt"
    assert "00:00:01,250 --> 00:00:02," in text
    assert "rocking" in text

    # and take it back
    page.locator(".lane.correction .bar").click()
    page.get_by_role("button", name="Take back").click()
    page.wait_for_function("() => !document.querySelector('.lane.correction')")
    assert library.corrections() == {}


def test_keys_zoom_and_handles(tab):
    page = tab("/video?id=a")
    page.wait_for_selector(".lane.prediction .bar")
    settled(page, 0.0)
    page.keyboard.press("l")
    settled(page, 5.0)
    page.keyboard.press("j")
    settled(page, 0.0)
    before = page.evaluate("document.querySelector('.canvas').offsetWidth")
    page.keyboard.press("+")
    assert page.evaluate("document.querySelector('.canvas').offsetWidth") > 1.4 * before
    page.keyboard.press("0")
    assert page.evaluate("document.querySelector('.canvas').offsetWidth") == before
    page.locator(".lane.prediction .bar").nth(0).click()
    settled(page, 4.0)
    handle = page.locator(".handle.start")
    handle.scroll_into_view_if_needed()
    box, canvas = handle.bounding_box(), page.locator(".canvas").bounding_box()
    duration = float(page.locator(".scrub").get_attribute("max"))
    page.mouse.move(box["x"] + 7, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(canvas["x"] + canvas["width"] * 3.0 / duration, box["y"] + 8, steps=4)
    page.mouse.up()
    assert page.locator("[name=start]").input_value() == "0:03.00"
    page.keyboard.press("Escape")
    assert page.locator(".bar[aria-pressed=true]").count() == 0
    page.keyboard.press("n")
    assert page.locator(".moment").count() == 1
    page.keyboard.press("?")
    page.wait_for_selector("dialog .keys")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.querySelector('dialog')")


def test_names_and_captions_are_only_text(tab):
    page = tab("/videos")
    page.wait_for_selector(".card")
    assert page.locator(".said", has_text=HOSTILE).count() == 1
    page.locator(".card", has_text=HOSTILE).locator("a").click()
    page.wait_for_selector("h1")
    page.wait_for_function("name => document.querySelector('h1').textContent.includes(name)", arg=HOSTILE)
    page.goto("/video?id=b")
    page.locator(".lane.annotation .bar", has_text=HOSTILE).click()
    assert page.locator("[name=label]").input_value() == HOSTILE
    assert page.locator("img[src=x]").count() == 0


def test_an_old_film_is_converted_and_plays(tab):
    page = tab("/video?id=old&t=2")
    page.wait_for_selector("video")
    settled(page, 2.0)


def test_nothing_found_and_not_there(browser, made, tab):
    page = tab("/search?q=entropy")
    page.get_by_role("heading", name="Nothing found").wait_for()
    page.get_by_role("link", name="Show the nearest anyway").click()
    page.locator(".hit").first.wait_for()
    page.go_back()
    page.get_by_role("heading", name="Nothing found").wait_for()
    # what is not there is said; the browser notes the 404, so this one is not among those that may not complain
    context = browser.new_context(base_url=made[0])
    lost = context.new_page()
    lost.goto("/video?id=zzz")
    lost.get_by_text("the library has no video 'zzz'").wait_for()
    context.close()


SMALL = """() => [...document.querySelectorAll('button:not(.bar), .chip, header a, input:not([type=range], .unseen)')]
    .filter(e => e.offsetParent && !['checkbox', 'radio'].includes(e.type))
    .map(e => [e.outerHTML.slice(0, 80), e.getBoundingClientRect()])
    .filter(([, box]) => box.height < 24 || box.width < 16).map(([text]) => text)"""


@pytest.mark.parametrize("path", ["/", f"/search?q={SENTENCE}", "/video?id=a", "/videos"])
def test_phone_width(tab, path):
    page = tab(path, PHONE)
    page.wait_for_selector(".card, .lane")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    small = page.evaluate(SMALL)
    assert small == [], "too small for a finger"


NAMELESS = """() => [...document.querySelectorAll(
    'a[href], button, input, select, textarea, video, img, [role=img], summary')]
    .filter(e => e.tagName === 'IMG' ? !e.hasAttribute('alt') : !(
        e.getAttribute('aria-label') || [...(e.labels ?? [])].some(l => l.textContent.trim())
        || e.textContent.trim() || e.title))
    .map(e => e.outerHTML.slice(0, 120))"""

CONTRAST = """() => {
    const pen = Object.assign(document.createElement('canvas'), { width: 1, height: 1 })
        .getContext('2d', { willReadFrequently: true });
    const parse = c => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = c;
        pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, under) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * under[i]);
    const light = row => row.slice(0, 3).map(v => v / 255)
        .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const bad = [];
    const left = '.time, .unseen, option, datalist, .status, noscript, [aria-hidden=true]';
    for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        if (!own || !e.offsetParent || e.closest(left)) continue;
        const chain = [];
        for (let p = e; p; p = p.parentElement) chain.unshift(parse(getComputedStyle(p).backgroundColor));
        const ground = chain.reduce((under, top) => over(top, under), [255, 255, 255]);
        const words = over(parse(getComputedStyle(e).color), ground);
        const [a, b] = [light(ground), light(words)].sort((x, y) => y - x);
        const ratio = (a + .05) / (b + .05);
        if (ratio < 4.5) bad.push([e.className, e.textContent.trim().slice(0, 30), ratio]);
    }
    return bad;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(tab, scheme):
    for path in ("/", f"/search?q={SENTENCE}", f"/video?id=a&q={SENTENCE}"):
        page = tab(path, DESK, scheme)
        page.wait_for_selector(".card:not(.ghost), .lane .bar")
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate(CONTRAST) == []
        assert page.locator("h1").count() == 1
        assert page.locator("main").count() == 1
        assert page.evaluate("document.documentElement.lang") == "en"
        if AXE:
            page.evaluate(Path(AXE).read_text())
            found = page.evaluate("""() => axe.run().then(told => told.violations
                .filter(v => ['serious', 'critical'].includes(v.impact))
                .map(v => [v.id, v.nodes.map(n => n.target.join(' ')).slice(0, 3)]))""")
            assert found == []


def test_colours_by_hand(tab):
    page = tab("/")
    page.get_by_role("button", name="Add videos, keys and colours").click()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("radio", name="dark").check()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.reload()
    page.wait_for_selector(".card")
    assert page.evaluate("document.documentElement.dataset.colours") == "dark"
