"""The report of an evaluation in Chromium: complete, without requests, readable in light and dark, and wide or narrow.

With REPORT_SCREENSHOT=docs/pictures/evaluation.webp and REPORT=out/evaluation/report.html the test also takes the
picture of the README.
"""

import io
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from evaluation.embedding_cache import EmbeddingCache
from evaluation.embeddings import embed_files
from evaluation.images import find_images
from evaluation.report.report import evaluation_report, write_report
from evaluation.run import Networks, Submission, evaluate
from tests.chromium import CHROMIUM, MISSING, OPTIONS
from tests.report_page import luminance, opened, save_stacked
from tests.sprite_benchmark import PROTOCOL, SPEC, benchmark, make_encoder, write_images, write_photos

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=MISSING),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a perfect model."""
    folder = tmp_path_factory.mktemp("report")
    bench = benchmark(3, 2)
    write_images(bench, folder / "images")
    photos = write_photos(bench, folder / "photos")
    submission = Submission("Perfect model", bench, find_images(folder / "images", bench), photos)
    embed = partial(embed_files, cache=EmbeddingCache(folder / "cache"))
    evaluations = evaluate(submission, [PROTOCOL], Networks({SPEC: make_encoder()}), folder / "out", embed)
    _, page = write_report(evaluation_report(evaluations, photos, dict.fromkeys(bench.subjects, 0)), folder)
    return page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=OPTIONS)
        yield running
        running.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_stand_out_from_the_page(browser: Browser, report: Path, scheme: str) -> None:
    page, _ = opened(browser, report, scheme, 1200)
    ground = luminance(page, "body", "backgroundColor")
    assert (ground > 0.5) == (scheme == "light")
    for selector in ("h1", "td", "thead th", ".note", "figcaption", "svg text", ".label"):
        prop = "fill" if selector == "svg text" else "color"
        dark, bright = sorted([luminance(page, selector, prop), ground])
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, selector
    page.close()


def test_the_page_is_complete_in_itself(browser: Browser, report: Path) -> None:
    page, foreign = opened(browser, report, "light", 1200)
    assert foreign == []
    assert page.locator("img").count() > 20
    assert page.eval_on_selector_all("img", "all => all.filter(e => !e.naturalWidth || !e.alt).length") == 0
    assert page.eval_on_selector_all("table", "all => all.filter(e => !e.caption).length") == 0
    assert page.locator("svg[role=img] > title").count() == page.locator("svg").count() > 0
    page.close()


def test_a_narrow_window_scrolls_tables_and_not_the_page(browser: Browser, report: Path) -> None:
    page, _ = opened(browser, report, "light", 400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


@pytest.mark.skipif(
    "REPORT_SCREENSHOT" not in os.environ,
    reason="it writes the README's picture of the report that REPORT names: set REPORT_SCREENSHOT to a file",
)
def test_picture_of_the_readme(browser: Browser) -> None:
    """The scores above, a part of the images below."""
    page, _ = opened(browser, Path(os.environ["REPORT"]).absolute(), "light", 1240)
    top = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": 1240, "height": 620})
    images = page.locator("section").last.bounding_box()
    assert images is not None
    low = page.screenshot(full_page=True, clip={"x": 0, "y": images["y"], "width": 1240, "height": 720})
    shots = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in (top, low)]
    save_stacked(shots, Path(os.environ["REPORT_SCREENSHOT"]), quality=80)
    page.close()
