"""The page, driven in Chromium as a user drives it: upload, correct, place, generate, cancel, download, make again.

With PAGE_SCREENSHOT=docs/pictures/page.webp the test also takes the picture of the README.
"""

import asyncio
import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, Page, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typer.testing import CliRunner

from flows.cli import app
from flows.generation.generator import Generator
from flows.generation.png import read_png
from miniature.world.sprites import cutout, sprites
from model.pipeline import Subject
from tests.chromium import CHROMIUM, MISSING, chromium
from tests.processes import PATIENCE_S
from tests.serving import TAXI, data_url, images_of, make_service, running
from tests.shipped_model import MAX_SUBJECTS

SIZE = (1320, 1180)
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=MISSING)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator()


@pytest.fixture(scope="module")
def url(generator: Generator) -> Iterator[str]:
    with running(make_service(generator)) as url:
        yield url


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[BrowserContext]:
    """A browser with a new profile."""
    with chromium(tmp_path, *SIZE) as browser:
        yield browser


@pytest.fixture
def page(browser: BrowserContext, url: str) -> Page:
    """The open page."""
    page = browser.pages[0]
    page.goto(url)
    expect(page.locator("#generate")).to_be_visible()
    return page


@pytest.fixture
def two_animals(tmp_path: Path) -> Path:
    """An opaque picture of two things of the miniature world, of which the user wants the right one."""
    scene = Image.new("RGB", (256, 160), (120, 170, 110))
    for name, x in (("mouse", 14), ("frog", 140)):
        sprite = Image.fromarray(cutout(next(one for one in sprites() if one.name == name), 104))
        scene.paste(sprite, (x, 40), sprite)
    scene.save(tmp_path / "animal.png")
    return tmp_path / "animal.png"


def drag(page: Page, area: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag the mouse between two points of an element, given as shares of it."""
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    (x0, y0), (x1, y1) = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end))
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2, steps=4)
    page.mouse.move(x1, y1, steps=4)
    page.mouse.up()


def shown(page: Page, image: Locator) -> np.ndarray:
    """The pixels of an image of the page."""
    content = page.request.get(image.get_attribute("src")).body()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)


def subject_pixels(picture: np.ndarray) -> np.ndarray:
    """Where a cut-out is not chequered ground, which is light grey."""
    return (picture.max(axis=2) - picture.min(axis=2) > 8) | (picture.max(axis=2) < 230)


def download(page: Page) -> Path:
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename.endswith(".png")
    return download.value.path()


def downloaded(page: Page) -> np.ndarray:
    return pixels(Image.open(download(page)))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), int)


def test_from_two_pictures_to_an_image(page: Page, two_animals: Path) -> None:
    page.locator("input[type=file]").first.set_input_files([TAXI, two_animals])
    for number, label in enumerate(("vehicle", "animal"), start=1):
        page.locator(f"#label-{number} input, #label-{number} textarea").fill(label)
        page.locator(f"#label-{number} input, #label-{number} textarea").blur()
    expect(page.locator("#cutout-1 img")).to_be_visible()

    drag(page, page.locator("#editor-2 canvas"), (0.5, 0.15), (0.99, 0.97))
    page.locator("#cut-2").click()
    expect(page.locator("#cutout-2 img")).to_be_visible()
    expect(page.locator("#status")).to_have_text("")
    marked = subject_pixels(shown(page, page.locator("#cutout-2 img")))
    assert marked[:, :120].sum() == 0
    assert marked[:, 130:].sum() > 2000

    page.locator("#quick").click()
    page.locator("#random input").uncheck()
    page.locator("#seed input").fill("3")
    page.locator("#prompt textarea").fill("a vehicle and an animal on the grass")
    page.locator("#generate").click()
    expect(page.locator("#gallery img")).to_have_count(1)
    first = downloaded(page)

    page.locator("#again").click()
    expect(page.locator("#gallery img")).to_have_count(2)
    assert np.abs(downloaded(page) - first).max() <= 1

    drag(page, page.locator("#canvas canvas"), (0.25, 0.6), (0.3, 0.35))
    page.locator("#generate").click()
    expect(page.locator("#gallery img")).to_have_count(3)
    moved = downloaded(page)
    assert np.abs(moved - first).max() > 30

    page.locator("#look").click()
    expect(page.locator("#attention img")).to_have_count(2)
    take_screenshot(page)

    page.locator("#steps input[type=number]").fill("200")
    page.locator("#generate").click()
    expect(page.locator("#status")).to_have_text(re.compile("Step"))
    expect(page.locator("#preview img")).to_be_visible()
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_have_text("Canceled")
    expect(page.locator("#gallery img")).to_have_count(3)


def test_the_image_is_that_of_the_api_the_command_line_and_python(
    page: Page, url: str, generator: Generator, tmp_path: Path
) -> None:
    """The page chooses the box; the others get it from the image's file."""
    page.locator("input[type=file]").first.set_input_files([TAXI])
    page.locator("#label-1 input, #label-1 textarea").fill("vehicle")
    page.locator("#random input").uncheck()
    page.locator("#seed input").fill("5")
    page.locator("#steps input[type=number]").fill("4")
    page.locator("#prompt textarea").fill("a vehicle in the snow")
    page.locator("#generate").click()
    expect(page.locator("#gallery img")).to_have_count(1)
    file = shutil.copy(download(page), tmp_path / "page.png")
    made, provenance = read_png(file)
    (subject,) = provenance.job.subjects
    assert (provenance.seed, provenance.job.steps, subject.label) == (5, 4, "vehicle")

    settings = {"prompt": "a vehicle in the snow", "seed": 5, "steps": 4}
    body = {
        **settings,
        "n": 2,
        "subjects": [{"label": "vehicle", "image": data_url(TAXI.read_bytes()), "box": subject.box}],
    }
    by_api, other = images_of(httpx.post(f"{url}/v1/images/generations", json=body, timeout=PATIENCE_S))
    words = ["--subject", f"{TAXI}:vehicle", "--box", ",".join(map(str, subject.box)), "--prompt", settings["prompt"]]
    by_command, _ = read_png(command(tmp_path, *words, "--seed", "5", "--steps", "4"))
    again, _ = read_png(command(tmp_path, "--from", str(file), "--subject", str(TAXI)))
    taxi = Subject(Image.open(TAXI), "vehicle", box=subject.box)
    noise = torch.Generator().manual_seed(5)
    by_python = generator.pipeline(settings["prompt"], [taxi], generator=noise, num_inference_steps=4).images[0]
    for image in (by_api, by_command, again, by_python):
        assert np.abs(pixels(image) - pixels(made)).max() <= 1
    assert np.abs(pixels(other) - pixels(made)).max() > 20


def command(folder: Path, *words: str) -> Path:
    """The one image that `generate` makes."""
    done = CliRunner().invoke(app, ["generate", *words, "--device", "cpu", "--out", str(folder / words[0])])
    assert done.exit_code == 0, done.output
    return Path(done.stdout.strip())


def take_screenshot(page: Page) -> None:
    if path := os.environ.get("PAGE_SCREENSHOT"):
        image = Image.open(io.BytesIO(page.screenshot(full_page=True)))
        image.save(path, quality=80)


def test_mistakes_are_explained(page: Page, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("this is text")
    page.locator("input[type=file]").first.set_input_files([tmp_path / "cat.png"])
    expect(page.locator("#status")).to_contain_text("cat.png cannot be used as an image")
    page.locator("input[type=file]").first.set_input_files([TAXI] * 9)
    expect(page.locator("#status")).to_contain_text(f"this model takes {MAX_SUBJECTS} subjects: remove one first")
    page.locator("#prompt textarea").fill("a vehicle " * 1000)
    page.locator("#steps input[type=number]").fill("1")
    page.locator("#generate").click()
    expect(page.locator("#status")).to_contain_text("characters were cut")
    page.locator("#remove-1").click()
    expect(page.locator("#label-1")).to_be_hidden()
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "unicorn.png")
    page.locator("input[type=file]").first.set_input_files([tmp_path / "unicorn.png"])
    expect(page.locator("#status")).to_contain_text("found no 'unicorn'")
    page.locator("#generate").click()
    expect(page.locator("#status")).to_contain_text("Subject 1 is not cut out")
    page.locator("#remove-1").click()
    expect(page.locator("#label-1")).to_be_hidden()


def test_the_description_of_the_api_needs_no_network(browser: BrowserContext, url: str) -> None:
    page = browser.pages[0]
    page.goto(f"{url}/docs")
    expect(page.locator(".opblock")).to_have_count(4)


def test_with_a_token_the_page_opens_after_signing_in(browser: BrowserContext, generator: Generator) -> None:
    with running(make_service(generator), token="s3cret") as url:
        page = browser.pages[0]
        page.goto(url)
        page.get_by_label("Access token").fill("wrong")
        page.get_by_role("button").click()
        expect(page.get_by_label("Access token")).to_have_value("")
        page.get_by_label("Access token").fill("s3cret")
        page.get_by_role("button").click()
        page.locator("#prompt textarea").fill("a tree")
        page.locator("#steps input[type=number]").fill("1")
        page.locator("#generate").click()
        expect(page.locator("#gallery img")).to_have_count(1)
        assert "s3cret" not in page.url


class SlowClose:
    """The app on a slow line: the message that closes a stream of events arrives after a second."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_slowly(message: Message) -> None:
            if b'"close_stream"' in message.get("body", b""):
                await asyncio.sleep(1)
            await send(message)

        await self._app(scope, receive, send_slowly)


def test_an_event_that_starts_while_the_stream_of_the_last_closes_is_not_lost(
    browser: BrowserContext, generator: Generator
) -> None:
    with running(make_service(generator), around=SlowClose) as url:
        page = browser.pages[0]
        page.goto(url)
        page.locator("#cancel").click()
        expect(page.locator("#status")).to_have_text("Nothing is running")
        page.locator("#quick").click()
        expect(page.locator("#steps input[type=number]")).to_have_value("12")
