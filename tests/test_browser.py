"""The page in a real browser: search, play, jump, correct, export; phone width; what screen readers are told.

Chromium from the system through Playwright; skipped where one of them is not here. axe-core looks at every page and
dialog by day and by night.
"""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path

import pytest
from tiny_library import HOSTILE, SENTENCE, clap_encoder, listening, make_library, pointing, strange

from cuemark.extraction import ExtractConfig
from cuemark.library import Library
from cuemark.segments import Segment, VideoTruth, read_truth

pytest.importorskip("fastapi", reason="the server needs the extra: pip install 'cuemark[serve]'")
pytest.importorskip("playwright.sync_api", reason="no Playwright here: pip install playwright")
pytest.importorskip("axe_playwright_python", reason="no axe-core here: pip install axe-playwright-python")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from cuemark.app.export import export
from cuemark.app.guard import Limits
from cuemark.app.server import create
from cuemark.app.service import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")
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
    with listening(app) as address:
        yield address, library


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


def test_what_the_keys_do_is_told(tab):
    page = tab("/")
    page.get_by_role("button", name="Add videos, keys and colours").click()
    page.get_by_role("button", name="Keys", exact=True).click()
    told = page.locator("dialog .keys")
    assert told.locator("dt").count() == told.locator("dd").count() == 12
    assert "accept it: it is saved" in told.inner_text()


def test_a_library_of_one_broken_film(tab, tiny_text, tmp_path):
    name = f"{'a name that nobody would give a film ' * 3}.mp4"
    (tmp_path / "footage").mkdir()
    (tmp_path / "footage" / name).write_bytes(b"no film")
    library = Library.create(tmp_path / "library", clap_encoder(tiny_text), config=ExtractConfig(stride=4))
    library.index([tmp_path / "footage"])
    with listening(create(Service(library))) as address:
        page = tab(address, PHONE)
        page.locator(".card", has_text="failed").wait_for()
        assert not re.search(r"\b(null|undefined|object)\b", page.locator("main").inner_text())
        page.get_by_role("button", name="Add videos, keys and colours").click()
        page.get_by_role("button", name="Look in its folders").click()
        page.get_by_text("is damaged, cut off or not a video").wait_for()
        page.locator("dialog #status", has_text="0 new videos, 1 left out").wait_for()  # not behind it
        page.get_by_role("button", name="Keys", exact=True).click()
        page.keyboard.press("Escape")
        page.locator("dialog #status").wait_for()
        page.keyboard.press("Escape")
        page.locator("body > #status").wait_for()
        page.locator(".card a").click()
        page.get_by_role("heading", name="This film cannot be shown").wait_for()
        assert page.locator(".crumbs p").bounding_box()["height"] < 40  # one line, however long the name
        assert audit(page) == []


FOCUSED = "() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"


def test_by_keyboard_alone(tab, made):
    """Whoever came by keyboard stays where they were when what they stand on is drawn anew."""
    page = tab("/video?id=b")
    page.wait_for_selector(".lane.annotation .bar")
    bars = page.locator(".lane.annotation .bar")
    first, second = (bars.nth(i).get_attribute("aria-label") for i in (0, 1))
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED) == first:
            break
    page.keyboard.press("Space")
    page.wait_for_selector(".bar[aria-pressed=true]")
    assert page.evaluate(FOCUSED) == first
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # chooses the one that has the focus, and accepts nothing
    page.wait_for_function("name => document.querySelector('[aria-pressed=true]')?.ariaLabel === name", arg=second)
    assert page.evaluate(FOCUSED) == second
    assert made[1].corrections() == {}
    page.keyboard.press("Enter")  # the chosen one is accepted
    page.wait_for_selector(".lane.correction .bar")
    assert page.evaluate(FOCUSED).endswith("Corrected")

    page.locator(".moment [name=start]").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("0:01.5")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED) == "Begins where the film is"
    page.locator(".moment [name=end]").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("0:02.5")
    page.keyboard.press("Enter")
    page.get_by_text("accepted 0:01.50 – 0:02.50").wait_for()
    assert page.evaluate(FOCUSED) == "Accept"
    (kept,) = read_truth(made[1].folder / "corrections.json")["b"].annotations
    assert (kept.start, kept.end) == (1.5, 2.5)
    page.keyboard.press("Delete")
    page.get_by_text("taken back").wait_for()
    assert made[1].corrections() == {}


def test_a_job_can_be_cancelled(tab, made, monkeypatch):
    library = made[1]
    films = [library.folder.parent / "footage" / f"new{i}.avi" for i in range(2)]
    for film in films:
        strange(film, 1.0)
    index, asked, unwanted = library.index, threading.Event(), threading.Event()

    def slowly(*args, progress, **options):
        def told(done, total, share):
            wanted = progress(done, total, share)
            while done >= 1 and wanted and not unwanted.wait(0.05):
                asked.set()
                wanted = progress(done, total, share)
            return wanted
        return index(*args, progress=told, **options)

    monkeypatch.setattr(library, "index", slowly)
    try:
        page = tab("/")
        page.get_by_role("button", name="Add videos, keys and colours").click()
        page.get_by_role("button", name="Look in its folders").click()
        page.get_by_text("the library's folders: 1 of 2 videos").wait_for()
        assert asked.wait(30)
        assert page.get_by_role("progressbar").count() == 1
        page.get_by_role("button", name="Cancel: the library's folders").click()
        page.get_by_text("the library's folders: cancelled, 1 of 2 videos").wait_for()
        assert page.get_by_role("button", name="Cancel: the library's folders").count() == 0
        assert len(library) == 6
        monkeypatch.undo()
        page.get_by_role("button", name="Look in its folders").click()
        page.get_by_text("the library's folders: done, 1 of 1 video").wait_for()
        assert len(library) == 7
    finally:
        unwanted.set()
        for film in films:
            film.unlink()
        index([library.folder.parent / "footage"])
    assert len(library) == 5


@pytest.mark.parametrize("kind", ["copy", "exact"])
def test_a_clip_plays_in_a_browser(browser, tab, tmp_path, kind):
    page = tab("/video?id=a")
    page.locator(".lane.prediction .bar").nth(1).click()  # 1 to 3 s
    page.locator(".moment").get_by_role("button", name="Export").click()
    with page.expect_download() as told:
        page.locator(f"dialog [data-format=clip-{kind}]").click()
    told.value.save_as(tmp_path / told.value.suggested_filename)
    context = browser.new_context()
    alone = context.new_page()
    alone.goto((tmp_path / told.value.suggested_filename).as_uri())
    alone.wait_for_function("() => document.querySelector('video').readyState >= 2")
    assert alone.evaluate("document.querySelector('video').duration") == pytest.approx(2.0, abs=0.15)
    alone.evaluate("() => { document.querySelector('video').currentTime = 1.5; }")
    settled(alone, 1.5)
    context.close()


CUES = """text => new Promise(done => {
    const track = document.createElement('track');
    track.onload = () => done([...track.track.cues].map(c => [c.startTime, c.endTime, c.getCueAsHTML().textContent]));
    track.src = URL.createObjectURL(new Blob([text], { type: 'text/vtt' }));
    track.track.mode = 'hidden';
    document.body.appendChild(document.createElement('video')).append(track);
})"""


def test_subtitles_are_cues_to_a_browser(tab):
    told = (Segment(1.0, 2.5, "rocking", 0.9), Segment(3.0, 4.25, "x", sentence="a <b>star</b> & --> spins"))
    made = export({"a": VideoTruth(10.0, told, "testing", 25.0)}, "webvtt")
    cues = tab("about:blank").evaluate(CUES, made.data.decode())
    assert cues == [[1.0, 2.5, "rocking"], [3.0, 4.25, "a <b>star</b> & --> spins"]]


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


def audit(page) -> list:
    """What axe-core objects to, of any weight."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], one["help"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found]


@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)], ids=["light", "dark"])
def test_axe_objects_to_nothing(tab, scheme, size):
    page = tab("/", size, scheme)
    for path in ("/", "/videos", "/search", "/search?q=entropy", f"/search?q={SENTENCE}", "/video?id=old",
                 f"/video?id=a&q={SENTENCE}&q=another"):
        page.goto(path)
        page.wait_for_selector(".card:not(.ghost), .lane .bar, .empty")
        assert audit(page) == [], path
    page.locator(".lane.prediction .bar").first.click()
    assert audit(page) == [], "a chosen moment"
    page.locator(".moment").get_by_role("button", name="Export").click()
    assert audit(page) == [], "export"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Add videos, keys and colours").click()
    page.wait_for_selector("dialog")
    assert audit(page) == [], "the menu"
    page.get_by_role("button", name="Keys", exact=True).click()
    assert audit(page) == [], "keys"


def test_colours_by_hand(tab):
    page = tab("/")
    page.get_by_role("button", name="Add videos, keys and colours").click()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("radio", name="dark").check()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.reload()
    page.wait_for_selector(".card")
    assert page.evaluate("document.documentElement.dataset.colours") == "dark"
