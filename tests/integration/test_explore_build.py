"""From a box that a person moves on the page to the next build: it changes that entity and nothing else.

With EXPLORE_SCREENSHOT=docs/pictures/explore.webp the test also takes the picture of the documentation.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import BrowserContext, Page, expect
from typer.testing import CliRunner

from flows.cli import app
from flows.demo import with_taught_subjects
from flows.experiment import Experiment
from infra.config import load
from labeling.build import LocalTaskRunner, build
from labeling.sdd.schema import Layer, LedgerRow, SddRow
from labeling.sdd.shards import ShardStore
from miniature.world.serve import METADATA, WorldConfig, world_server, write_world
from tests.chromium import CHROMIUM, MISSING, chromium
from tests.exploring import exploring, make_explorer

SCENES = 60
FRAME_PX = (1200, 771)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM.exists(), reason=MISSING)]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Experiment:
    """Settings of a finished dataset of labelled scenes, in two shards."""
    folder = tmp_path_factory.mktemp("scenes")
    write_world(folder / "world", SCENES, 3, with_taught_subjects(WorldConfig(port=0)))
    values = {"root": f"{folder}/sdd", "urls": f"{folder / 'world' / METADATA}", "images_per_shard": 30}
    config = load(Experiment, "demo", [f"labeling.{name}={value!r}" for name, value in values.items()])
    with world_server(folder / "world"):
        build(config.labeling, LocalTaskRunner())
    return config


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[BrowserContext]:
    with chromium(tmp_path, 1400, 900) as browser:
        yield browser


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet")}


def rows(store: ShardStore, row: type, layer: str) -> dict[bytes, object]:
    return {each.key: each for shard in store.shards(layer) for each in store.read(row, (layer,), shard)}


def test_a_box_moved_on_the_page_is_in_the_next_build_and_nothing_else_is(
    config: Experiment, browser: BrowserContext
) -> None:
    root = Path(config.labeling.root)
    store = ShardStore(str(root))
    before, sdd, ledger = contents(root), rows(store, SddRow, Layer.SDD), rows(store, LedgerRow, Layer.LEDGER)
    page = browser.pages[0]
    with exploring(make_explorer(root)) as url:
        page.goto(f"{url}#/browse")
        page.locator("#where").fill("len(labels) = 2")
        page.locator("#where").press("Enter")
        expect(page.locator(".card.kept").first).to_be_visible()
        expect(page.locator(".card:not(.kept)")).to_have_count(0)
        page.locator(".card").first.click()
        expect(page.locator("#story h1")).to_have_text("kept")
        key = bytes.fromhex(page.locator("#story dd").first.inner_text())
        page.keyboard.press("e")
        expect(page.locator(".editing")).to_be_visible()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("s")
        expect(page.locator("#story .thing", has_text="waits for the next build")).to_have_count(1)

    build(config.labeling, LocalTaskRunner())
    after = contents(root)
    changed = {name for name in after if after[name] != before.get(name)}
    (shard,) = {Path(name).stem for name in changed if name.startswith("sdd/")}
    (review,) = store.names("corrections")
    assert changed == {
        f"sdd/{shard}.parquet",
        f"ledger/{shard}.parquet",
        f"corrections/{review}.parquet",
        f"corrections/masks/{shard}.parquet",
    }
    corrected, verdicts = rows(store, SddRow, Layer.SDD), rows(store, LedgerRow, Layer.LEDGER)
    assert corrected.keys() == sdd.keys()
    assert {each for each in sdd if corrected[each] != sdd[each]} == {key}
    assert {each for each in ledger if verdicts[each] != ledger[each]} == {key}
    old, new = sdd[key], corrected[key]
    assert replace(new, entities=()) == replace(old, entities=())
    assert len(set(new.entities) - set(old.entities)) == 1
    (moved,) = set(new.entities) - set(old.entities)
    (was,) = set(old.entities) - set(new.entities)
    assert (moved.label, moved.score, moved.box.x0 - was.box.x0, moved.box.y1 - was.box.y1) == (was.label, 1, 1, 1)
    assert moved.mask_area_px > 0.6 * moved.box.area_px
    assert [(each.action, each.outcome, each.author) for each in verdicts[key].corrections] == [
        ("moved", "applied", "eve")
    ]

    for command in ("status", "validate"):
        checked = CliRunner().invoke(app, [command, str(root)])
        assert checked.exit_code == 0, checked.output
    with exploring(replace(make_explorer(root), root="out/sdd")) as url:
        page.goto("about:blank")
        page.goto(url)
        page.locator("#where").fill("is_corrected")
        page.locator("#where").press("Enter")
        expect(page.locator(".card")).to_have_count(1)
        page.locator(".card").click()
        expect(page.locator("#story .thing", has_text="applied")).to_have_count(1)
        take_screenshots(page, url)


def take_screenshots(page: Page, url: str) -> None:
    """Take the page of images and the open image, one above the other."""
    if not (path := os.environ.get("EXPLORE_SCREENSHOT")):
        return
    page.goto("about:blank")
    page.goto(url)
    expect(page.locator(".card img").nth(20)).to_be_visible()
    page.wait_for_load_state("networkidle")
    frames = [page.screenshot()]
    page.locator("#where").fill("len(labels) = 3")
    page.locator("#where").press("Enter")
    expect(page.locator(".card:not(.kept)")).to_have_count(0)
    page.locator(".card").first.click()
    expect(page.locator("#story h1")).to_have_text("kept")
    page.wait_for_load_state("networkidle")
    frames.append(page.screenshot())
    sheet = Image.new("RGB", (FRAME_PX[0], 2 * FRAME_PX[1] + 16), "white")
    for number, frame in enumerate(frames):
        sheet.paste(Image.open(io.BytesIO(frame)).convert("RGB").resize(FRAME_PX), (0, number * (FRAME_PX[1] + 16)))
    sheet.save(path, quality=72, method=6)
