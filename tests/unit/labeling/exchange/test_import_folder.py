"""A folder of images becomes a list with captions, then images/ with a verdict for each file."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.experiment import Experiment
from infra.config import load
from labeling.config import DownloadConfig, LabelingConfig, NounConfig, RulesConfig
from labeling.errors import ExchangeError, ShardStale
from labeling.exchange.folder_import import index_folder
from labeling.exchange.import_source import SETTINGS, import_folder, settings_toml
from labeling.sdd.schema import Image, ListedUrl
from labeling.sdd.shards import ShardStore
from labeling.source_index import SourceIndex
from tests.factories import jpeg


def write_photos(folder: Path) -> Path:
    (folder / "more").mkdir(parents=True)
    for n, name in enumerate(("1.jpg", "2.JPEG", "more/3.jpg", "more/4.jpg", ".hidden.jpg")):
        (folder / name).write_bytes(jpeg(n))
    (folder / "1.txt").write_text("a dog\non a beach\n")
    (folder / "2.txt").write_text("")
    (folder / "notes.md").write_text("no image")
    (folder / "broken.png").write_bytes(b"\x89PNG, or so it says")
    (folder / "more" / "metadata.jsonl").write_text(
        '{"file_name": "3.jpg", "text": "a cat"}\n\n{"file_name": "none.jpg", "caption": "a bird"}\n'
    )
    return folder


def config_of(root: Path, **settings: object) -> LabelingConfig:
    download = DownloadConfig(min_side_px=0)
    return LabelingConfig.model_validate({"root": str(root), "download": download, "images_per_shard": 4, **settings})


def captions_of(folder: Path, tmp_path: Path) -> dict[str, str | None]:
    """Return the captions of the folder's images by URL, as the list of an import has them."""
    with SourceIndex.open(tmp_path / "index") as index, (tmp_path / "list").open("wb") as file:
        index_folder(folder, index)
        index.write_list(file)
    return {row["URL"]: row["TEXT"] for row in pq.read_table(tmp_path / "list").to_pylist()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Return a folder with photos/ and the dataset sdd/, and the number of images by state."""
    folder = tmp_path_factory.mktemp("import")
    return folder, import_folder(write_photos(folder / "photos"), config_of(folder / "sdd"))


def test_every_file_ends_in_one_verdict(imported):
    folder, counts = imported
    assert counts == {"kept": 4, "failed": 1, "not_downloaded": 1}
    store = ShardStore(str(folder / "sdd"))
    assert store.shards("urls") == store.shards("images") == ["shard-00000", "shard-00001"]
    listed = {row.url: row for shard in store.shards("urls") for row in store.read(ListedUrl, ("urls",), shard)}
    assert listed["file:1.jpg"].alt_text == "a dog on a beach"
    kept = [row for shard in store.shards("images") for row in store.read(Image, ("images",), shard)]
    assert {row.url: row.image for row in kept} == {
        f"file:{name}": (folder / "photos" / name).read_bytes()
        for name in ("1.jpg", "2.JPEG", "more/3.jpg", "more/4.jpg")
    }
    verdicts = {
        key: verdict for shard in store.shards("images") for key, verdict in store.verdicts("images", shard).items()
    }
    assert {key: verdict.reason for key, verdict in verdicts.items()} == {
        listed["file:broken.png"].key: "undecodable",
        listed["file:more/none.jpg"].key: "missing_file",
    }


def test_a_second_import_makes_nothing_and_needs_no_image(imported, tmp_path):
    folder, counts = imported
    shutil.copytree(folder, tmp_path / "copy")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy" / "sdd" / "images").glob("*.parquet")}
    for image in (tmp_path / "copy" / "photos").glob("*.jp*g"):
        image.write_bytes(b"")
    assert import_folder(tmp_path / "copy" / "photos", config_of(tmp_path / "copy" / "sdd")) == counts
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_changed_folder_is_refused(imported, tmp_path):
    folder, _ = imported
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "photos" / "0.jpg").write_bytes(jpeg(9))
    with pytest.raises(ShardStale, match=r"labeling\.stale=rebuild"):
        import_folder(tmp_path / "copy" / "photos", config_of(tmp_path / "copy" / "sdd"))


def test_the_settings_file_is_that_of_the_import(imported):
    folder, _ = imported
    read = load(Experiment, folder / "sdd" / SETTINGS).labeling
    assert (read.root, read.images_per_shard) == (str(folder / "sdd"), 4)
    assert (read.download.folder, read.download.min_side_px, read.caption.given) == (str(folder / "photos"), 0, True)


def test_captions_are_those_of_texts_and_tables(photos, tmp_path):
    assert captions_of(photos, tmp_path) == {
        "file:1.jpg": "a dog on a beach",
        "file:2.JPEG": None,
        "file:broken.png": None,
        "file:more/3.jpg": "a cat",
        "file:more/4.jpg": None,
        "file:more/none.jpg": "a bird",
    }


def test_captions_of_a_table_come_before_texts_beside_images(photos, tmp_path):
    (photos / "metadata.csv").write_text("file_name,text\n1.jpg,a wolf\n2.JPEG,\n")
    captions = captions_of(photos, tmp_path)
    assert (captions["file:1.jpg"], captions["file:2.JPEG"]) == ("a wolf", None)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metadata.jsonl", '{"file_name": "1.jpg"}\n{"text"', r"metadata\.jsonl, row 2: .*one JSON object per line"),
        ("captions.jsonl", "[1]", r"captions\.jsonl, row 1: '\[1\]' is not an object"),
        ("metadata.jsonl", '{"text": "a dog"}', "row 1: file_name is None: give the name"),
        ("metadata.jsonl", '{"file_name": "1.jpg", "text": 7}', "row 1: the caption is 7: give a string"),
        ("metadata.csv", "file_name,text\n../1.jpg,a dog\n", r"row 2: '\.\./1\.jpg' is outside"),
        ("1.txt", b"\xff\xfe", r"1\.txt cannot be read .*save it as UTF-8"),
    ],
)
def test_an_unusable_file_of_captions_is_named_with_its_row(photos, tmp_path, file, text, message):
    (photos / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExchangeError, match=message):
        captions_of(photos, tmp_path)


@pytest.mark.parametrize("name", ["nothing", "photos/1.jpg", "empty"])
def test_a_source_without_images_is_refused(photos, tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExchangeError, match="give the folder of the images"):
        captions_of(tmp_path / name, tmp_path)


def test_an_object_store_is_refused(photos):
    with pytest.raises(ExchangeError, match="not a local folder"):
        import_folder(photos, LabelingConfig(root="memory://sdd"))


def test_every_changed_setting_is_written(tmp_path):
    nouns = NounConfig(renamed={"a b": 'c"d'}, stop_words=("é", "\\n"))
    config = LabelingConfig(root='a"b', nouns=nouns, rules=RulesConfig(min_score=0.5))
    (tmp_path / "settings.toml").write_text(settings_toml(config, Path("photos")), encoding="utf-8")
    assert load(Experiment, tmp_path / "settings.toml").labeling == config
    emptied = config.model_copy(update={"nouns": NounConfig(renamed={}, stop_words=())})
    (tmp_path / "settings.toml").write_text(settings_toml(emptied, Path("photos")), encoding="utf-8")
    assert load(Experiment, tmp_path / "settings.toml").labeling == emptied
