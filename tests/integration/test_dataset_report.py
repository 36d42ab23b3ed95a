"""The report of a dataset in Chromium: without requests, in light and dark, its galleries filtered as a user does.

With REPORT_SCREENSHOT=docs/pictures/report.webp and REPORT=report.html the test also takes the picture of the guide.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from labeling.config import RulesConfig
from labeling.finish import FinishJob
from labeling.report.report import ReportOptions, write_report
from tests.chromium import CHROMIUM, MISSING, OPTIONS
from tests.factories import SHARD, labelled
from tests.report_page import luminance, opened, save_stacked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=MISSING),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    labelled(root / "sdd")
    layers = ("images", "captions", "nouns", "detections", "entities")
    assert FinishJob(root=str(root / "sdd"), rules=RulesConfig(), layers=layers).make(SHARD).error is None
    write_report(str(root / "sdd"), str(root / "report.html"), None, ReportOptions(memory_mb=256))
    return root / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=OPTIONS)
        yield running
        running.close()


def shown(page: Page, gallery: int) -> list[str]:
    """Captions of the images of a gallery that are not filtered out."""
    cards = page.locator(".gallery").nth(gallery).locator(".cards figure:visible figcaption")
    return [text.split("\n")[0] for text in cards.all_inner_texts()]


def test_filters_leave_the_images_of_a_label_a_reason_and_a_word(browser: Browser, report: Path) -> None:
    page, foreign = opened(browser, report, "light", 1200)
    kept, dropped = page.locator(".gallery").nth(0), page.locator(".gallery").nth(1)
    assert len(shown(page, 0)) == 2
    kept.get_by_label("label").select_option("cat")
    assert shown(page, 0) == ["a dog and a cat 2"]
    expect(kept.locator("output")).to_have_text("1 of 2 images")
    kept.get_by_label("label").select_option("")
    assert len(shown(page, 0)) == 2
    dropped.get_by_label("reason").select_option("thin_mask")
    assert shown(page, 1) == ["a dog and a cat 3"]
    assert len(shown(page, 0)) == 2
    dropped.get_by_label("words").fill("no such word")
    assert shown(page, 1) == []
    assert foreign == []
    page.close()


def test_boxes_and_masks_lie_over_the_picture_and_can_be_hidden(browser: Browser, report: Path) -> None:
    page, _ = opened(browser, report, "light", 1200)
    gallery = page.locator(".gallery").first
    picture, drawing = gallery.locator("img").first, gallery.locator(".frame svg").first
    assert picture.bounding_box() == drawing.bounding_box()
    box, whole = drawing.locator("rect").first.bounding_box(), picture.bounding_box()
    assert box is not None
    assert whole is not None
    assert whole["x"] - 2 <= box["x"]
    assert box["x"] + box["width"] <= whole["x"] + whole["width"] + 2
    gallery.get_by_label("boxes and masks").uncheck()
    expect(drawing).to_be_hidden()
    expect(picture).to_be_visible()
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_stand_out_from_the_page(browser: Browser, report: Path, scheme: str) -> None:
    page, _ = opened(browser, report, scheme, 1200)
    ground = luminance(page, "body", "backgroundColor")
    assert (ground > 0.5) == (scheme == "light")
    for selector in ("h1", "td", "thead th", "figcaption", "figcaption small", "figure > svg text", ".filters label"):
        prop = "fill" if "svg" in selector else "color"
        dark, bright = sorted([luminance(page, selector, prop), ground])
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, selector
    page.close()


def test_a_narrow_window_does_not_scroll_sideways(browser: Browser, report: Path) -> None:
    page, _ = opened(browser, report, "light", 400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


@pytest.mark.skipif(
    "REPORT_SCREENSHOT" not in os.environ,
    reason="it writes the guide's picture of the report that REPORT names: set REPORT_SCREENSHOT to a file",
)
def test_picture_of_the_guide(browser: Browser) -> None:
    """Verdicts, kept images, dropped images, and the properties of Fig. 6."""
    page, _ = opened(browser, Path(os.environ["REPORT"]).absolute(), "light", 1240)
    parts = []
    for selector, height in (("h2:text-is('Verdicts')", 305), (".gallery >> nth=0", 560), (".gallery >> nth=1", 560)):
        box = page.locator(selector).bounding_box()
        assert box is not None
        clip = {"x": 0, "y": box["y"] - 12, "width": 1240, "height": height}
        parts.append(Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))).convert("RGB"))
    save_stacked(parts, Path(os.environ["REPORT_SCREENSHOT"]), quality=70)
    page.close()
