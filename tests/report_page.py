"""Pages of reports, opened in Chromium from their files."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page


def opened(browser: Browser, report: Path, scheme: str, width: int) -> tuple[Page, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(str(error)))
    page.goto(report.as_uri())
    return page, [url for url in asked if not url.startswith(("data:", "file:"))]


def luminance(page: Page, selector: str, prop: str) -> float:
    """Return the relative luminance of a colour that the page shows (WCAG 2)."""
    colour = page.eval_on_selector(selector, f"e => getComputedStyle(e)['{prop}']")
    channels = [int(part) / 255 for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def save_stacked(shots: Sequence[Image.Image], path: Path, quality: int) -> None:
    """Write screenshots below each other, as WebP."""
    whole = Image.new("RGB", (max(shot.width for shot in shots), sum(shot.height for shot in shots)), "white")
    top = 0
    for shot in shots:
        whole.paste(shot, (0, top))
        top += shot.height
    whole.save(path, "WEBP", quality=quality, method=6)
