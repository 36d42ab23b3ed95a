"""The explorer's page, driven in Chromium: filters, paging, the story of an image, SQL, and files of keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.chromium import CHROMIUM, MISSING, chromium
from tests.datasets import NEXT, dataset_of_two
from tests.exploring import exploring, make_explorer
from tests.factories import SHARD, key

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=MISSING)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return dataset_of_two(tmp_path_factory.mktemp("explored") / "sdd")


@pytest.fixture(scope="module")
def url(root) -> Iterator[str]:
    with exploring(make_explorer(root)) as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[BrowserContext]:
    with chromium(tmp_path_factory.mktemp("browser"), 1400, 900) as browser:
        yield browser


@pytest.fixture
def page(browser: BrowserContext, url: str) -> Page:
    page = browser.pages[0]
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("about:blank")
    page.goto(url)
    expect(page.locator(".card")).to_have_count(16)
    yield page
    assert not errors


def test_facets_search_and_conditions_narrow_the_page(page: Page):
    expect(page.locator("#total")).to_have_text("16 images")
    page.get_by_role("button", name="cat").first.click()
    expect(page.locator(".card")).to_have_count(3)
    page.get_by_role("button", name="dog").first.click()
    expect(page.locator("#total")).to_have_text("2 images")
    page.go_back()
    expect(page.locator(".card")).to_have_count(3)
    page.locator(".chip").click()
    page.keyboard.press("/")
    page.keyboard.type("a cat 22")
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(1)
    page.locator("#search").fill("")
    page.locator("#search").press("Enter")
    page.locator("#where").fill("len(labels) = nothing")
    page.locator("#where").press("Enter")
    expect(page.locator(".note.error").first).to_contain_text("nothing")
    page.locator("#where").fill("len(labels) = 2")
    page.locator("#where").press("Enter")
    expect(page.locator(".card")).to_have_count(2)


def test_an_image_tells_its_story_and_the_keyboard_goes_on_to_the_next(page: Page):
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    story = page.locator("#story")
    expect(story.locator("h1")).to_have_text("kept")
    expect(story.locator(".caption")).to_have_text("a dog and a cat 2")
    expect(story.locator("rect.box")).to_have_count(3)
    expect(story.locator("path.mask")).to_have_count(3)
    expect(story.locator(".thing").last).to_contain_text("low score")
    page.keyboard.press("d")
    expect(story.locator("rect.box")).to_have_count(2)
    page.keyboard.press("m")
    expect(story.locator("path.mask")).to_have_count(0)
    page.keyboard.press("j")
    expect(story.locator("h1")).to_contain_text("thin mask")
    for _ in range(6):
        page.keyboard.press("j")
    expect(story.locator("h1")).to_contain_text("ValueError")
    expect(story.locator(".steps li.stop")).to_contain_text("detail of 9")
    page.keyboard.press("Escape")
    expect(story).to_be_hidden()


def test_a_selection_is_saved_as_keys(page: Page):
    for number in (2, 22):
        page.locator(f'.card:has(img[src*="{key(number).hex()}"])').hover()
        page.locator(f'.card:has(img[src*="{key(number).hex()}"]) .pick').click()
    expect(page.locator("#chosen")).to_have_text("2 selected")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save keys as TXT").click()
    assert download.value.path().read_text().split() == [key(2).hex(), key(22).hex()]
    page.keyboard.press("c")
    expect(page.locator("#chosen")).to_have_text("All that meet the filter")


def test_sql_shows_a_table_whose_keys_open_images(page: Page, root: Path):
    page.get_by_role("link", name="SQL").click()
    page.locator("#query").fill("SELECT key, label FROM entities WHERE label = 'cat' ORDER BY key DESC")
    page.locator("#run").click()
    expect(page.locator("#result tbody tr")).to_have_count(3)
    page.locator("#result a").first.click()
    expect(page.locator("#story .caption")).to_have_text("a dog and a cat 23")
    page.keyboard.press("Escape")
    page.locator("#query").fill("COPY labels TO 'out.csv'")
    page.locator("#run").click()
    expect(page.locator(".note.error")).to_contain_text("one SELECT statement")


def test_the_theme_is_kept(page: Page):
    before = page.evaluate("document.documentElement.className")
    page.keyboard.press("t")
    page.reload()
    expect(page.locator(".card")).to_have_count(16)
    assert page.evaluate("document.documentElement.className") != before


def test_shards_are_named(page: Page):
    page.locator("#where").fill(f"shard = '{NEXT}'")
    page.locator("#where").press("Enter")
    expect(page.locator(".card")).to_have_count(4)
    page.locator("#where").fill(f"shard = '{SHARD}'")
    page.locator("#where").press("Enter")
    expect(page.locator(".card")).to_have_count(12)
