"""Make the pictures of tour.md: `python docs/tour.py --library LIB --query SENTENCE [--predictions NAME=FILE …]`.

A server of its own answers, the system's Chromium looks. PNG with 128 colours: 20 to 150 kB each.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

OUT = Path(__file__).parent / "tour"
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def picture(page: Page, name: str) -> None:
    """What is seen now, as docs/tour/NAME.png."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(600)
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    OUT.mkdir(exist_ok=True)
    for colours in (128, 64, 32):
        shot.quantize(colours, dither=Image.Dither.NONE).save(OUT / f"{name}.png", optimize=True)
        if (OUT / f"{name}.png").stat().st_size < 150_000:
            break


def tour(browser: Browser, address: str, query: str) -> None:
    """The way of tour.md."""
    def tab(path: str, size: dict[str, int], scheme: str) -> Page:
        context = browser.new_context(viewport=size, color_scheme=scheme, base_url=address)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(path)
        return page

    found = "/search?" + urlencode({"q": query, "any": "true"})
    page = tab("/", DESK, "light")
    page.wait_for_selector(".card img")
    picture(page, "library")
    page = tab(found, DESK, "light")
    page.wait_for_selector(".hit")
    page.reload()  # the first search loaded what reads sentences
    page.wait_for_selector(".hit")
    picture(page, "search")
    page.locator(".hit .shot").first.click()
    page.wait_for_selector(".bars .bar[aria-pressed=true]")
    page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    page.evaluate("document.querySelector('.timeline').scrollIntoView({ block: 'end' })")
    picture(page, "moment")
    page.locator(".moment").get_by_role("button", name="Export").click()
    page.wait_for_selector("dialog")
    picture(page, "export")
    page = tab(page.url.removeprefix(address.rstrip("/")), DESK, "dark")
    page.wait_for_selector(".bars .bar[aria-pressed=true]")
    page.wait_for_function("() => document.querySelector('video').readyState >= 2")
    picture(page, "dark")
    page = tab(found, PHONE, "light")
    page.wait_for_selector(".hit")
    picture(page, "phone")


def main() -> None:
    """Serve, look, end."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--query", required=True)
    parser.add_argument("--predictions", nargs="*", default=[])
    given = parser.parse_args()
    command = [sys.executable, "-m", "cuemark", "serve", "--library", given.library, "--port", "0"]
    command += ["--predictions", *given.predictions] if given.predictions else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found, "the server did not start"
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                tour(browser, found[0], given.query)
                browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
