"""Files that are missing, damaged, swapped or another dataset's are each seen and named."""

import shutil
from pathlib import Path

import pytest

from labeling.audit import audit, check_contents
from labeling.config import LabelingConfig
from labeling.execution.record import record_run
from labeling.sdd.schema import Caption, Entities, Image, Layer, ListedUrl
from labeling.sdd.shards import ShardStore
from tests.datasets import FOREIGN, NEXT, dataset_of_two, flip, swap, write_confirmations
from tests.factories import SHARD, image, key, listed

OLD = Path(__file__).parents[2] / "golden" / "sdd_version_1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return dataset_of_two(tmp_path_factory.mktemp("whole") / "sdd")


@pytest.fixture
def root(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "root"))


@pytest.fixture
def old(tmp_path) -> Path:
    """A dataset of files without names, parents and checksums; its second shard is interrupted after detections/."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def problems(root: Path) -> tuple[str, ...]:
    return audit(str(root)).problems


def changes(root: Path) -> list[str]:
    return [problem for _, problem in check_contents(audit(str(root))) if problem]


def test_nothing_is_wrong_with_a_finished_dataset(whole):
    assert problems(whole) == ()
    assert changes(whole) == []


def test_nothing_is_wrong_with_a_dataset_that_is_being_made(root):
    """As a build leaves it that has come to nouns/ of the second shard."""
    for layer in tuple(Layer)[4:]:
        (root / layer / f"{NEXT}.parquet").unlink()
    assert problems(root) == ()


def test_nothing_is_wrong_with_a_copy_of_the_product_alone(root):
    for layer in tuple(Layer)[:6]:
        shutil.rmtree(root / layer)
    assert problems(root) == ()
    shutil.rmtree(root / "ledger")
    assert problems(root) == ()


@pytest.mark.parametrize("layer", tuple(Layer))
def test_a_deleted_file_is_named(root, layer):
    path = root / layer / f"{NEXT}.parquet"
    path.unlink()
    (problem,) = problems(root)
    assert problem.startswith(f"{path} is missing")


def test_deleted_last_layers_are_named_where_a_run_had_finished_them(root):
    with record_run(LabelingConfig(root=str(root)), [], shards=2):
        pass
    assert problems(root) == ()
    for layer in ("sdd", "ledger"):
        (root / layer / f"{NEXT}.parquet").unlink()
    assert [problem.split(" is missing")[0] for problem in problems(root)] == [
        f"{root}/{layer}/{NEXT}.parquet" for layer in ("sdd", "ledger")
    ]


def test_optional_folders_are_compared_with_the_layers_that_they_are_made_from(root: Path) -> None:
    kept = {21: (0.8,), 22: (0.9, 0.3), 23: (0.0,)}
    write_confirmations(root, {key(number): ious for number, ious in kept.items()})
    assert problems(root) == ()
    for layer in tuple(Layer)[5:]:
        (root / layer / f"{NEXT}.parquet").unlink()
    assert problems(root) == (
        f"{root}/entities/{NEXT}.parquet is missing, though confirmations/ has it: put it back, or run the build again",
    )


def test_an_optional_file_made_from_another_file_is_named(root: Path) -> None:
    write_confirmations(root, {key(21): (0.8,), key(22): (0.9, 0.3), key(23): (0.0,)})
    ShardStore(str(root)).rewrite("entities", NEXT, Entities, lambda record: record, stamp="other")
    (problem,) = (problem for problem in problems(root) if "confirmations/" in problem)
    assert problem.startswith(f"{root}/confirmations/{NEXT}.parquet was made from entities/ stamped ")
    assert problem.endswith("which now is other: run the build again, or move it away")


@pytest.mark.parametrize("layer", tuple(Layer))
@pytest.mark.parametrize("size", [0, 3, 0.5, -1])
def test_a_truncated_file_is_named(root, layer, size):
    path = root / layer / f"{SHARD}.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(size * len(content)) if size == 0.5 else size])
    (problem,) = problems(root)
    assert str(path) in problem


@pytest.mark.parametrize("layer", tuple(Layer))
def test_a_file_of_another_size_is_named(root, layer):
    """Bytes in the middle are gone, and the footer is whole."""
    path = root / layer / f"{SHARD}.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:100] + content[104:])
    (problem,) = problems(root)
    assert problem.startswith(f"{path} has {len(content) - 4} bytes, but was written with {len(content)}")


@pytest.mark.parametrize("layer", tuple(Layer))
@pytest.mark.parametrize("at", [4, 0.2, 0.5, 0.8, -9, -1])
def test_a_flipped_bit_is_named(root, layer, at):
    path = root / layer / f"{SHARD}.parquet"
    size = path.stat().st_size
    flip(path, at if isinstance(at, int) else int(at * size))
    found = {*problems(root), *changes(root)}
    assert any(str(path) in problem for problem in found)
    assert {problem for problem in found if str(path) not in problem and f"{path.parent.name}/" not in problem} == set()


@pytest.mark.parametrize("entry", ["name", "seal"])
def test_a_footer_of_which_an_entry_lost_its_key_is_named(root, entry):
    """A file with only one of the two is not taken for one of an earlier version, which has no checksum."""
    path = root / "ledger" / f"{SHARD}.parquet"
    flip(path, path.read_bytes().rindex(b"\x18\x04" + entry.encode()) + 2)
    assert any(str(path) in problem and f"lacks '{entry}'" in problem for problem in problems(root))


def test_a_footer_that_changes_the_type_of_the_keys_is_named(root):
    """pyarrow aborts the process where it is asked for the statistics of such a column."""
    path = root / "ledger" / f"{SHARD}.parquet"
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    flip(path, content.index(b"\x15\x0e", footer) + 1)  # in the schema: a fixed length becomes a double
    assert any(str(path) in problem for problem in problems(root))


def test_a_link_to_nothing_is_named(root):
    path = root / "captions" / f"{SHARD}.parquet"
    path.rename(root / "elsewhere")
    path.symlink_to(root / "gone")
    (problem,) = problems(root)
    assert problem.startswith(f"{path} is a broken link: ")


@pytest.mark.parametrize("layer", tuple(Layer))
def test_swapped_files_are_named(root, layer):
    swap(root / layer)
    found = problems(root)
    for shard in (SHARD, NEXT):
        assert any(problem.startswith(f"{root / layer / shard}.parquet was written as") for problem in found)


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_named(root, kind):
    spoil, name = FOREIGN[kind]
    spoil(root)
    assert any(problem.startswith(f"{root / name}.parquet") for problem in problems(root))


def test_a_file_made_from_others_than_are_there_is_named(root):
    """As after images/ was put back from an old copy."""
    path = root / "captions" / f"{SHARD}.parquet"
    ShardStore(str(root)).write_outcomes("images", SHARD, [image(n) for n in range(1, 13)], Image, "old", replace=True)
    (problem,) = problems(root)
    assert problem.startswith(f"{path} was made from images/ stamped downloaded, which now is old")


def test_rows_that_do_not_add_up_are_named(root):
    store = ShardStore(str(root))
    store.write("urls", NEXT, [listed(n) for n in (21, 22, 23, 24, 25)], ListedUrl, "list", replace=True)
    assert any(f"{root}/images/{NEXT}.parquet has 4 rows, but urls/ has 5" in problem for problem in problems(root))
    store.write_outcomes("captions", SHARD, [Caption(key=key(1), caption="a dog")], Caption, "captions", replace=True)
    assert any(f"{root}/nouns/{SHARD}.parquet has 9 rows, but captions/ has 1" in p for p in problems(root))


def test_files_of_an_earlier_version_are_compared_as_far_as_they_go(old):
    found = audit(str(old))
    assert found.problems == ()
    assert changes(old) == []
    assert {file.stamp.size for layer in found.files.values() for file in layer.values()} == {None}


def test_in_files_without_a_checksum_a_changed_picture_is_named(old):
    path = old / "sdd" / f"{SHARD}.parquet"
    flip(path, path.read_bytes().index(image(1).image) + 100)
    (problem,) = changes(old)
    assert problem.startswith(f"{path} holds a picture of {key(1).hex()}")


def test_in_files_without_a_checksum_other_keys_are_named(old):
    swap(old / "images")
    assert any(f"{old}/images/{SHARD}.parquet" in problem for problem in problems(old))
    swap(old / "images")
    swap(old / "nouns")
    assert any(f"{old}/nouns/{SHARD}.parquet" in problem for problem in {*problems(old), *changes(old)})
