"""The explorer's page, driven in Chromium: filters, stories, SQL, files of keys, corrections and audits."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from labeling.quality.marks import AuditedImage, read_audit
from labeling.sdd.corrections import SeenEntity, read_corrections
from labeling.sdd.shards import ShardStore
from tests.chromium import CHROMIUM, MISSING, chromium
from tests.datasets import NEXT, dataset_of_two
from tests.exploring import exploring, make_explorer
from tests.factories import CAT, DOG, SHARD, key

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
    assert len(page.locator(".note.error").all_inner_texts()) == 1  # not one for each facet


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


def test_the_order_of_doubt_is_in_the_address(page: Page, url: str):
    page.locator("#order").select_option("doubtful")
    expect(page.locator(".card").first).to_have_attribute("title", "dog")
    expect(page.locator(".card").nth(2)).to_have_attribute("title", "dog")
    page.goto(f"{url}#/browse?order=doubtful&filter=%7B%22labels%22%3A%5B%22cat%22%5D%7D")
    expect(page.locator("#order")).to_have_value("doubtful")
    expect(page.locator(".card")).to_have_count(3)


def test_a_selection_is_saved_as_keys(page: Page):
    for number in (2, 22):
        card(page, number).hover()
        card(page, number).locator(".pick").click()
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


def test_a_running_query_can_be_stopped(page: Page):
    page.get_by_role("link", name="SQL").click()
    expect(page.locator("#stop")).to_be_hidden()
    page.locator("#query").fill("SELECT count(*) FROM range(1000000000000) AS one WHERE hash(one) = 1")
    page.locator("#run").click()
    page.locator("#stop").click()
    expect(page.locator("#state")).to_have_text("Stopped")
    expect(page.locator("#stop")).to_be_hidden()
    page.locator("#query").fill("SELECT 1 AS one")
    page.locator("#run").click()
    expect(page.locator("#result tbody tr")).to_have_count(1)


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


def card(page: Page, number: int) -> Locator:
    return page.locator(f'.card:has(img[src*="{key(number).hex()}"])')


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag the mouse over the image, between two points in its pixels."""
    area = page.locator(".editing").bounding_box()
    points = [(area["x"] + x / 64 * area["width"], area["y"] + y / 48 * area["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=5)
    page.mouse.up()


def test_boxes_are_moved_relabelled_removed_and_added(page: Page, root: Path):
    card(page, 22).click()
    expect(page.locator("#story .caption")).to_have_text("a dog and a cat 22")
    page.keyboard.press("e")
    expect(page.locator(".editing")).to_be_visible()
    boxes = page.locator(".panel .thing")
    expect(boxes).to_have_count(2)
    drag(page, (10, 10), (15, 22))  # the dog's box
    expect(page.locator("#changes")).to_have_text("1 changed")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Alt+ArrowDown")
    page.keyboard.press("l")
    page.keyboard.type("wolf")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Delete")
    drag(page, (2, 30), (12, 46))
    page.keyboard.type("fox")
    page.keyboard.press("Enter")
    expect(boxes).to_have_count(3)
    expect(page.locator("#changes")).to_have_text("3 changed")
    page.keyboard.press("s")
    expect(page.locator(".note")).to_contain_text("4 corrections saved")
    expect(page.locator("#story .thing", has_text="waits for the next build")).to_have_count(4)

    made = {each.correction.action: each.correction for each in read_corrections(ShardStore(str(root)))[NEXT]}
    assert made.keys() == {"relabelled", "moved", "removed", "added"}
    assert (made["relabelled"].entity, made["relabelled"].label) == (SeenEntity(label="dog", box=DOG.box), "wolf")
    moved = made["moved"].box
    assert [moved.x0, moved.y0, moved.x1, moved.y1] == pytest.approx([15, 12, 35, 33], abs=1)
    assert made["removed"].entity == SeenEntity(label="cat", box=CAT.box)
    added = made["added"].box
    assert made["added"].label == "fox"
    assert [added.x0, added.y0, added.x1, added.y1] == pytest.approx([2, 30, 12, 46], abs=1)
    assert {each.author for each in made.values()} == {"eve"}

    page.keyboard.press("e")  # what is saved is where the next correction begins
    expect(page.locator(".panel .thing.removed")).to_have_count(1)
    expect(page.locator(".panel input").first).to_have_value("wolf")
    page.keyboard.press("Escape")
    expect(page.locator(".editing")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator("#story")).to_be_hidden()


def test_an_audit_is_marked_by_keys(page: Page, root: Path):
    page.get_by_role("link", name="Audit").click()
    page.locator("#audit-name").fill("first")
    page.locator("#audit-size").fill("100")
    page.locator("#draw").click()
    expect(page.locator("#mark")).to_have_text("Mark 9 images (Enter)")
    page.locator("#mark").click()
    for number in range(9):
        mark = page.locator(".mark").first
        expect(page.locator("#story dd").first).to_have_text(sample(root)[number].key.hex())
        page.keyboard.press(mark.locator("kbd").inner_text())
    expect(page.locator("#story")).to_be_hidden()
    expect(page.locator("#mark")).to_have_text("All are marked")
    rows = page.locator(".proportions tr")
    expect(rows.first).to_contain_text("High quality")
    expect(rows.first).to_contain_text("55.6 %")  # 5 of 9 are kept
    expect(rows.nth(3)).to_contain_text("44.4 %")
    expect(page.locator(".picture")).to_have_count(9)
    marks = {image.state: image.mark for image in sample(root)}
    assert marks == {"kept": "high_quality", "dropped": "rightly_dropped"}
    assert {image.author for image in sample(root)} == {"eve"}


def sample(root: Path) -> tuple[AuditedImage, ...]:
    return read_audit(ShardStore(str(root)), "first").images
