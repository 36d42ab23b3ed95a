"""Pages, facets and filters against the rows of the files."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from labeling.config import RulesConfig
from labeling.errors import ExplorerError
from labeling.explorer.browse import Browser, Order, Place
from labeling.explorer.facets import Facet
from labeling.explorer.filters import ImageFilter
from labeling.explorer.session import DatasetSession, QueryLimits
from labeling.finish import FinishJob
from labeling.sdd.corrections import Action, Correction, ReviewedCorrection, SeenEntity
from labeling.sdd.schema import Layer, LedgerRow
from labeling.sdd.shards import ShardStore
from tests.datasets import NEXT, dataset_of_two, write_confirmations
from tests.factories import CAT, SHARD, key
from tests.unit.labeling.sdd.test_versions import OLD


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    return str(dataset_of_two(tmp_path_factory.mktemp("explored") / "sdd"))


@pytest.fixture(scope="module")
def browser(root) -> Browser:
    return Browser(DatasetSession(root))


def verdicts(root: str) -> list[tuple[str, LedgerRow]]:
    store = ShardStore(root)
    return [(shard, row) for shard in (SHARD, NEXT) for row in store.read(LedgerRow, (Layer.LEDGER,), shard)]


def test_pages_hold_every_image_once_in_order(root, browser):
    places, after = [], None
    while True:
        page = browser.page(ImageFilter(), after, 5)
        places += [card.place for card in page.cards]
        after = places[-1]
        if page.is_last:
            break
        assert len(page.cards) == 5
    assert places == [Place(shard, row.key) for shard, row in verdicts(root)]
    assert browser.count(ImageFilter()) == len(places) == 16


def test_a_last_page_that_is_full_is_the_last(browser):
    assert not browser.page(ImageFilter(), None, 15).is_last
    assert browser.page(ImageFilter(), None, 16).is_last


def test_pages_begin_with_the_images_that_are_most_likely_wrong(root, browser, tmp_path):
    places = pages(browser, Order.DOUBTFUL)
    assert sorted(places) == pages(browser, Order.STORED)
    assert places[:5] == [Place(SHARD, key(1)), Place(SHARD, key(2)), *(Place(NEXT, key(n)) for n in (21, 22, 23))]
    confirmed = Path(shutil.copytree(root, tmp_path / "sdd"))
    write_confirmations(confirmed, {key(21): (0.8,), key(22): (0.9, 0.3), key(23): (0.0,)})
    again = Browser(DatasetSession(str(confirmed)))
    doubtful = pages(again, Order.DOUBTFUL)
    assert doubtful[:3] == [Place(NEXT, key(n)) for n in (23, 22, 21)]
    assert pages(again, Order.STORED) == sorted(doubtful)
    assert again.count(ImageFilter(where="quality < 0.5")) == 2


def pages(browser: Browser, order: Order) -> list[Place]:
    """Places of all images, from pages of two."""
    places: list[Place] = []
    while not (page := browser.page(ImageFilter(), places[-1] if places else None, 2, order)).is_last:
        places += [card.place for card in page.cards]
    return places + [card.place for card in page.cards]


def test_a_card_has_the_entities_that_break_no_rule(browser):
    cards = {card.place.key: card for card in browser.page(ImageFilter(), None, 16).cards}
    assert [entity["label"] for entity in cards[key(2)].entities] == ["dog", "cat"]
    assert cards[key(2)].entities[0]["box"] == {"x0": 0.0, "y0": 0.0, "x1": 20.0, "y1": 20.0}
    four = cards[key(4)]
    assert (four.state, four.stage, four.reason, four.entities) == ("dropped", "sdd", "aspect_ratio", ())


def test_facets_count_what_the_ledger_has(root, browser):
    rows = [row for _, row in verdicts(root)]
    kept = [[c.label for c in row.candidates if not c.broken] for row in rows]
    expected = {
        Facet.VERDICT: Counter((row.state, row.reason) for row in rows),
        Facet.LABEL: Counter((label,) for labels in kept for label in labels),
        Facet.RULE: Counter((rule,) for row in rows for rule in {rule for c in row.candidates for rule in c.broken}),
        Facet.ENTITIES: Counter((len(labels),) for labels in kept),
    }
    for facet in Facet:
        assert dict(browser.facet(facet, ImageFilter())) == expected[facet], facet
    assert browser.facet(Facet.LABEL, ImageFilter(reasons=("thin_mask",))) == []


@pytest.mark.parametrize(
    ("images", "numbers"),
    [
        (ImageFilter(states=("kept",)), {1, 2, 21, 22, 23}),
        (ImageFilter(reasons=("http_404", "no_box")), {7, 11}),
        (ImageFilter(labels=("dog", "cat")), {2, 22}),
        (ImageFilter(rules=("aspect_ratio", "box_share")), {4}),
        (ImageFilter(entities=(2,)), {2, 22}),
        (ImageFilter(text="A CAT 2"), {2, 21, 22, 23}),
        (ImageFilter(text="example.com/7.jpg"), {7}),
        (ImageFilter(text="50%"), set()),
        (ImageFilter(where="len(labels) = 1 AND shard = 'shard-00001' -- of the second shard"), {21, 23}),
        (ImageFilter(where="key IN (SELECT key FROM entities WHERE label = 'cat')"), {2, 22, 23}),
        (ImageFilter(states=("kept",), where="width_px = 64 OR true"), {1, 2, 21, 22, 23}),
    ],
)
def test_a_filter_selects(browser, images, numbers):
    page = browser.page(images, None, 100)
    assert {int.from_bytes(card.place.key, "big") for card in page.cards} == numbers
    assert set(browser.places(images)) == {card.place for card in page.cards}
    assert browser.count(images) == len(numbers)


@pytest.mark.parametrize("where", ["no_column = 1", "true); DROP VIEW explored; SELECT (1", "len(", "label ="])
def test_a_wrong_condition_is_an_error_and_changes_nothing(browser, where):
    with pytest.raises(ExplorerError):
        browser.page(ImageFilter(where=where), None, 1)
    assert browser.count(ImageFilter()) == 16


@pytest.mark.parametrize(
    "sql",
    [
        "COPY labels TO 'out.csv'",
        "CREATE TABLE t AS FROM labels",
        "DROP VIEW explored",
        "SET memory_limit = '900GB'",
        "ATTACH 'out.db'",
        "SELECT 1; SELECT 2",
        "EXPLAIN ANALYZE COPY labels TO 'out.csv'",
        "FROM read_text('/etc/hostname')",
        "FROM glob('/etc/*')",
        "FROM read_csv('/etc/hostname')",
    ],
)
def test_sql_writes_nothing_and_reads_nothing_else(root, sql, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExplorerError):
        DatasetSession(root).table(sql)
    assert list(tmp_path.iterdir()) == []


def test_the_index_is_kept_until_the_ledger_changes(tmp_path):
    root = dataset_of_two(tmp_path / "sdd")
    kept = tmp_path / "cache"

    def names() -> list[tuple[str, int]]:
        return [(path.name, path.stat().st_ino) for path in kept.rglob("*") if path.is_file()]

    def count() -> int:
        return Browser(DatasetSession(str(root), kept)).count(ImageFilter(text="a cat 2", labels=("cat",)))

    assert count() == 3
    made = names()
    assert len(made) == 1
    assert (count(), names()) == (3, made)
    (root / "ledger" / f"{NEXT}.parquet").unlink()
    (root / "sdd" / f"{NEXT}.parquet").unlink()
    assert count() == 1
    assert len(names()) == 1
    assert names() != made


def test_a_session_writes_nothing_beside_its_index(tmp_path):
    session = DatasetSession(str(dataset_of_two(tmp_path / "sdd")), tmp_path / "cache")
    for sql in ("DROP TABLE indexed.explored", "FROM read_blob('/etc/hostname')", f"ATTACH '{tmp_path}/other.db'"):
        with pytest.raises(ExplorerError):
            session.table(sql)
    assert session.table("SELECT count(*) FROM explored").rows == ((16,),)


def test_corrected_images_are_found_after_the_build_that_corrects_them(tmp_path):
    root = dataset_of_two(tmp_path / "sdd")
    correction = Correction(
        key=key(22),
        shard=NEXT,
        entity=SeenEntity(label="cat", box=CAT.box),
        action=Action.REMOVED,
        label=None,
        box=None,
        mask=None,
        author="eve",
        made_at=None,
    )
    made = {NEXT: [ReviewedCorrection(correction, "first")]}
    job = FinishJob(root=str(root), rules=RulesConfig(), layers=tuple(Layer)[1:6], corrections=made)
    assert job.make(NEXT).error is None
    (card,) = Browser(DatasetSession(str(root))).page(ImageFilter(where="is_corrected"), None, 9).cards
    assert (card.place, card.is_corrected, [entity["label"] for entity in card.entities]) == (
        Place(NEXT, key(22)),
        True,
        ["dog"],
    )


def test_sql_is_cut_after_its_limit(root):
    session = DatasetSession(root, limits=QueryLimits(rows=3))
    table = session.table("SELECT key, state FROM ledger")
    assert (table.columns, len(table.rows), table.is_cut) == (("key", "state"), 3, True)
    assert not session.table("FROM ledger LIMIT 3").is_cut


def test_a_query_ends_at_its_timeout(root):
    session = DatasetSession(root, limits=QueryLimits(timeout_s=0.2))
    with pytest.raises(ExplorerError, match=r"longer than 0\.2 s"):
        session.table("SELECT count(*) FROM range(1_000_000_000_000) AS a, range(1_000_000) AS b")
    assert session.table("SELECT 1").rows == ((1,),)


def test_a_dataset_of_version_1_is_shown():
    page = Browser(DatasetSession(str(OLD))).page(ImageFilter(states=("kept",)), None, 10)
    assert [[entity["label"] for entity in card.entities] for card in page.cards] == [["dog"], ["dog", "cat"]]


def test_a_dataset_without_a_ledger_is_refused(tmp_path: Path):
    with pytest.raises(ExplorerError, match="no ledger/ yet"):
        DatasetSession(str(tmp_path))
