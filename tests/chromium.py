"""Chromium without a window, driven by Playwright. A request to another machine fails the test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
MISSING = f"there is no {CHROMIUM}: install it with `apt-get install chromium`"
OPTIONS = [
    f"--{name}"
    for name in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    )
]
PATIENCE_MS = 180_000
"""How long a test waits for the page: ten times what a loaded machine takes."""


@contextmanager
def chromium(folder: Path, width_px: int, height_px: int) -> Iterator[BrowserContext]:
    """A browser with a new profile in `folder`.

    What a failed test saw is in its output: the messages of the page, and the path of its picture.
    """
    foreign: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            folder / "profile",
            executable_path=CHROMIUM,
            args=OPTIONS,
            viewport={"width": width_px, "height": height_px},
            accept_downloads=True,
        )
        browser.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        browser.on("console", lambda message: print(message.type, message.text))
        browser.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
        yield browser
        picture = folder / "page.png"
        browser.pages[0].screenshot(path=picture)
        print(f"The page at the end of the test: {picture}")
        browser.close()
    assert not foreign


def is_foreign(address: str) -> bool:
    """Whether a request leaves this machine."""
    return not address.startswith(("http://127.0.0.1:", "data:", "blob:", "about:", "chrome:"))
