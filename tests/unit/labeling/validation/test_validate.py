"""Each check finds a dataset that is broken in just its way, names the place, and no other check does."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from labeling.cleaning.embedding import STORED
from labeling.correction.mask_job import MASKS
from labeling.quality.marks import Audit, AuditedImage, Mark
from labeling.sdd.arrow import Record
from labeling.sdd.corrections import Correction, SeenEntity, write_corrections
from labeling.sdd.removed import Removal, write_removal
from labeling.sdd.schema import Box, Entities, Layer
from labeling.sdd.shards import ShardStore
from labeling.validation.validate import Findings, Scope, descriptions, validate
from tests.datasets import flip
from tests.factories import DOG
from tests.sound_dataset import add_optional_folders, edit, sound_dataset, with_image

SHARD, NEXT = "shard-00000", "shard-00001"
ZSTD = b"\x28\xb5\x2f\xfd"
"""First bytes of a compressed page."""
REFERENCE = Path(__file__).parents[4] / "docs" / "reference" / "sdd-format.md"
OLD = Path(__file__).parents[3] / "golden" / "sdd_version_1"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A dataset with optional folders, a correction whose mask a person drew, the mask of another one, and an audit."""
    root = sound_dataset(tmp_path_factory.mktemp("sound") / "sdd")
    store, key = ShardStore(str(root)), key_of(root, 0)
    write_corrections(store, "drawn", [moved(key)])
    store.write_outcomes(MASKS, SHARD, [Entities(key=key, candidates=(DOG,))], Entities, "stamp")
    add_optional_folders(root)
    marked = {"mark": Mark.HIGH_QUALITY, "author": "eve", "made_at": "2026-11-30T12:00:00+00:00"}
    Audit(store, "first", [audited(key, **marked), audited(key_of(root, 2), state="dropped")]).save()
    return root


def key_of(root: Path, number: int) -> bytes:
    """Key of the image with this number."""
    key: bytes = row_of(number, pq.read_table(root / "ledger" / f"{SHARD}.parquet").to_pylist())["key"]
    return key


def moved(key: bytes) -> Correction:
    seen = SeenEntity(label=DOG.label, box=DOG.box)
    assert DOG.segment is not None
    mask, at = DOG.segment.mask, "2026-11-30T12:00:00+00:00"
    return Correction(
        key=key,
        shard=SHARD,
        entity=seen,
        action="moved",
        label=None,
        box=DOG.box,
        mask=mask,
        author="eve",
        made_at=at,
    )


def audited(key: bytes, state: str = "kept", **marked: Any) -> AuditedImage:
    unmarked = {"mark": None, "author": None, "made_at": None}
    return AuditedImage(key=key, shard=SHARD, state=state, stratum=state, stratum_images=2, **(unmarked | marked))


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "sdd"))


def findings(root: Path, **scope: Any) -> Findings:
    *_, last = validate(str(root), Scope(**scope), workers=1)
    return last


def test_a_sound_dataset_has_no_fault(sound: Path) -> None:
    found = findings(sound)
    assert found.faults == []
    assert found.rows == {
        "urls": 11,
        "images": 11,
        "captions": 8,
        "nouns": 7,
        "detections": 6,
        "entities": 6,
        "sdd": 4,
        "ledger": 11,
        "embeddings": 8,
        "confirmations": 5,
        "similar": 1,
    }


def test_files_of_the_list_may_have_any_row_groups(root: Path) -> None:
    """Earlier versions wrote 64 rows a group, this one writes one group a file."""
    edit(root / "urls" / f"{SHARD}.parquet", rows_per_group=3)
    assert findings(root).faults == []


def test_a_copy_of_the_product_alone_has_no_fault(root: Path) -> None:
    for layer in tuple(Layer)[:6]:
        shutil.rmtree(root / layer)
    assert findings(root).faults == []
    shutil.rmtree(root / "ledger")
    assert findings(root).faults == []


def row_of(number: int, rows: list[Record]) -> Record:
    """The row of the image with this number."""
    return next(row for row in rows if (row.get("url") or "").endswith(f"/{number}.jpg"))


def edit_row(root: Path, layer: str, number: int, change: Callable[[Record], Any]) -> None:
    """Edit the row of an image of the first shard, in a layer that has URLs."""
    edit(root / layer / f"{SHARD}.parquet", lambda rows: change(row_of(number, rows)))


def edit_entity(**values: Any) -> Callable[[Path], None]:
    """Return an edit of the only entity of the first image of sdd/."""
    return lambda root: edit_row(root, "sdd", 0, lambda row: row["entities"][0].update(values))


def edit_mask(**values: Any) -> Callable[[Path], None]:
    return lambda root: edit_row(root, "sdd", 0, lambda row: row["entities"][0]["mask"].update(values))


def in_file(layer: str, change: Callable[[list[Record]], Any], **options: Any) -> Callable[[Path], None]:
    return lambda root: edit(root / layer / f"{SHARD}.parquet", change, **options)


def swap_rows(rows: list[Record]) -> None:
    rows[0], rows[1] = rows[1], rows[0]


def lose_a_caption(root: Path) -> None:
    key = []
    edit_row(root, "images", 2, lambda row: key.append(row["key"]))  # the rules drop this image
    captions = root / "captions" / f"{SHARD}.parquet"
    edit(captions, lambda rows: next(row for row in rows if row["key"] == key[0]).update(caption=None))


def rename_a_url(root: Path) -> None:
    for layer in ("urls", "ledger"):
        edit_row(root, layer, 3, lambda row: row.update(url="https://a.example/other.jpg"))


def skip_a_list_row(root: Path) -> None:
    for layer in ("urls", "ledger"):
        edit_row(root, layer, 7, lambda row: row.update(list_row=99))


def repeat_a_key(root: Path) -> None:
    for layer in tuple(Layer)[:6]:
        shutil.rmtree(root / layer)
    shutil.rmtree(root / "ledger")
    keys: list[bytes] = []
    edit(root / "sdd" / f"{SHARD}.parquet", lambda rows: keys.extend(row["key"] for row in rows))
    edit(root / "sdd" / f"{NEXT}.parquet", lambda rows: rows[0].update(key=min(keys)))


def change_a_key(root: Path) -> None:
    def change(row: Record) -> None:
        row["key"] = row["key"][:-1] + bytes([row["key"][-1] ^ 1])

    edit_row(root, "ledger", 1, change)  # neither the first nor the last row, which `status` compares


def untie_bounds(root: Path) -> None:
    inside = np.ones((20, 20), bool)
    inside[:, 19] = False
    edit_row(root, "sdd", 0, lambda row: row["entities"][0].update(loose_mask(inside)))


def loose_mask(inside: np.ndarray) -> dict[str, Any]:
    """The columns of an entity with a mask that does not fill its bounds."""
    counts = coco.encode(np.asfortranarray(inside, dtype=np.uint8))["counts"]
    height, width = inside.shape
    mask = {"counts": counts, "x0": 0, "y0": 0, "width_px": width, "height_px": height}
    return {"mask": mask, "mask_area_px": int(inside.sum())}


def change_sha256(root: Path) -> None:
    for layer in ("images", "sdd"):
        edit_row(root, layer, 0, lambda row: row.update(sha256=bytes(32)))


def change_footer(root: Path) -> None:
    path = root / "captions" / f"{SHARD}.parquet"
    flip(path, path.read_bytes().rindex(b"parquet-cpp"))


def correct_a_stranger(root: Path) -> None:
    seen = SeenEntity(label="dog", box=Box(x0=0, y0=0, x1=20, y1=20))
    outcome = {"action": "removed", "label": None, "box": None, "mask": None, "author": None, "made_at": None}
    write_corrections(ShardStore(str(root)), "review", [Correction(key=bytes(16), shard=SHARD, entity=seen, **outcome)])


def in_plain_file(name: str, change: Callable[[list[Record]], Any]) -> Callable[[Path], None]:
    """Return an edit of the rows of a file without a stamp."""

    def change_file(root: Path) -> None:
        path = root / f"{name}.parquet"
        table = pq.read_table(path)
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)

    return change_file


def edit_drawn_mask(**values: Any) -> Callable[[Path], None]:
    return in_plain_file("corrections/drawn", lambda rows: rows[0]["mask"].update(values))


def edit_audit(**values: Any) -> Callable[[Path], None]:
    """Return an edit of the first row of the audit, of a marked image."""
    return in_plain_file("audits/first", lambda rows: rows[0].update(values))


def damage(name: str) -> Callable[[Path], Any]:
    return lambda root: (root / name).write_bytes(b"damaged")


def edit_confirmation(**values: Any) -> Callable[[Path], None]:
    """Return an edit of the first confirmation of the first shard."""
    return in_file("confirmations", lambda rows: rows[0]["confirmations"][0].update(values))


def edit_embedding(change: Callable[[np.ndarray], np.ndarray], shard: str = SHARD) -> Callable[[Path], None]:
    """Return an edit of the last embedding of a shard."""

    def edit_rows(rows: list[Record]) -> None:
        rows[-1]["embedding"] = change(np.frombuffer(rows[-1]["embedding"], STORED)).astype(STORED).tobytes()

    return lambda root: edit(root / "embeddings" / f"{shard}.parquet", edit_rows)


BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "usable_audits": (damage("audits/first.parquet"), "audits/first", "is no audit"),
    "audited_images": (edit_audit(key=bytes(16)), "audits/first, row 0, key", f"is no image of {SHARD}"),
    "marks_of_states": (
        edit_audit(mark="wrongly_dropped"),
        "audits/first, row 0, mark",
        "'wrongly_dropped' is no mark of kept images: high_quality, low_recall, other",
    ),
    "authors_of_marks": (edit_audit(author=None), "audits/first, row 0, author", "is missing"),
    "strata_of_audits": (edit_audit(stratum_images=0), "audits/first, row 0, stratum_images", "is 0, but the audit"),
    "complete_files": (lambda root: (root / "sdd" / f"{NEXT}.parquet").unlink(), f"sdd/{NEXT}", "is missing"),
    "usable_corrections": (correct_a_stranger, "", "corrects the image 00"),
    "schema": (in_file("nouns", lambda rows: None, extra_column=True), f"nouns/{SHARD}", "has other columns"),
    "row_groups": (in_file("captions", lambda rows: None, rows_per_group=4), f"captions/{SHARD}", "0 of 2 has 4 rows"),
    "row_order": (in_file("captions", swap_rows), f"captions/{SHARD}, row 1, key", "comes after"),
    "counts": (
        in_file("images", lambda rows: None, counts={"kept": 6, "failed": 2}),
        f"images/{SHARD}",
        "has the rows 1 dropped, 6 kept, 1 not_downloaded, but its footer counts 2 failed, 6 kept",
    ),
    "states": (
        in_file("detections", lambda rows: rows[0].update(reason="odd")),
        f"detections/{SHARD}, row 0, reason",
        "is 'odd', though the row is kept",
    ),
    "payload": (lose_a_caption, f"captions/{SHARD}, row", "caption: is null, though the row is kept"),
    "checksum": (change_footer, f"captions/{SHARD}", "has changed since it was written (SHA-256)"),
    "unique_keys": (repeat_a_key, f"sdd/{NEXT}, row 0, key", f"is in {SHARD} too"),
    "keys_of_urls": (rename_a_url, f"urls/{SHARD}, row", "key: is not the hash of occurrence 0 of the URL"),
    "list_rows": (skip_a_list_row, f"urls/{SHARD}, list_row", "has the rows 0 to 99 of the list, not 0 to 7"),
    "same_rows": (change_a_key, f"sdd/{SHARD}, row", "key: is no kept row of ledger/"),
    "copied_columns": (
        lambda root: edit_row(root, "sdd", 0, lambda row: row.update(alt_text="other")),
        f"sdd/{SHARD}, row",
        "alt_text: is 'other', but 'text 0' in images/",
    ),
    "ledger_verdicts": (
        lambda root: edit_row(root, "ledger", 3, lambda row: row.update(reason="http_500")),
        f"ledger/{SHARD}, row",
        "state: is images not_downloaded http_500, but images/ has not_downloaded http_404",
    ),
    "removed_rows": (
        lambda root: write_removal(
            ShardStore(str(root)), "late", Removal(made_at="", urls=("https://a.example/0.jpg",))
        ),
        f"sdd/{SHARD}, row",
        "url: the URL is in removed/: finish the removal",
    ),
    "spans_in_caption": (
        edit_entity(span_end=99),
        f"sdd/{SHARD}, row",
        "entities[0].span_start: the span 2..99 is not inside the 17 characters",
    ),
    "detections_of_nouns": (
        in_file("detections", lambda rows: rows[0]["detections"][0].update(label="wolf")),
        f"detections/{SHARD}, row 0, detections[0].label",
        "'wolf' with its span is no noun of the image",
    ),
    "boxes_in_image": (
        edit_entity(box={"x0": 0.0, "y0": 0.0, "x1": 65.0, "y1": 20.0}),
        f"sdd/{SHARD}, row",
        "entities[0].box: 0, 0, 65, 20 is not inside the image of 64x48 px",
    ),
    "masks_in_image": (
        edit_mask(x0=45),
        f"sdd/{SHARD}, row",
        "entities[0].mask: the bounds 45, 0, 65, 20 are not inside the image of 64x48 px",
    ),
    "run_lengths_of_masks": (
        edit_mask(width_px=21),
        f"sdd/{SHARD}, row",
        "entities[0].mask: the run lengths have 400 pixels, the bounds 21x20",
    ),
    "tight_bounds": (untie_bounds, f"sdd/{SHARD}, row", "mask: no pixel is at the right side of the bounds"),
    "areas": (
        edit_entity(mask_area_px=401),
        f"sdd/{SHARD}, row",
        "entities[0].mask_area_px: is 401, but the mask has 400 pixels",
    ),
    "scores": (edit_entity(stability=float("nan")), f"sdd/{SHARD}, row", "stability: nan is not between 0 and 1"),
    "entities_of_row": (
        lambda root: edit_row(root, "sdd", 1, lambda row: row["entities"].reverse()),
        f"sdd/{SHARD}, row",
        "entities: is not in the order of box areas",
    ),
    "confirmations_of_candidates": (
        in_file("confirmations", lambda rows: rows[0]["confirmations"].clear()),
        f"confirmations/{SHARD}, row 0, confirmations",
        "has 0 items, but the image ",
    ),
    "numbers_of_confirmations": (
        edit_confirmation(confirmed_iou=1.5),
        f"confirmations/{SHARD}, row 0, confirmations[0].confirmed_iou",
        "1.5 is not between 0 and 1",
    ),
    "width_of_embeddings": (
        edit_embedding(lambda numbers: np.append(numbers, 0), NEXT),
        f"embeddings/{NEXT}, row 1, embedding",
        "has 6 bytes, but the first embedding has 4",
    ),
    "unit_embeddings": (
        edit_embedding(lambda numbers: numbers * 2),
        f"embeddings/{SHARD}, row 5, embedding",
        "has length 2, not 1",
    ),
    "similar_images": (
        in_file("similar", lambda rows: rows[0].update(shard=NEXT)),
        f"similar/{SHARD}, row 0, shard",
        f"'{NEXT}' comes after {SHARD}",
    ),
    "sha256_of_image": (change_sha256, f"images/{SHARD}, row", "sha256: is not that of the image"),
    "decodable_image": (
        lambda root: edit_row(root, "images", 2, lambda row: with_image(row, row["image"][:-300])),
        f"images/{SHARD}, row",
        "image: cannot be decoded",
    ),
    "size_and_type_of_image": (
        lambda root: edit_row(root, "images", 2, lambda row: row.update(width_px=65)),
        f"images/{SHARD}, row",
        "width_px: is 65, but the image's is 64",
    ),
    "perceptual_hash_of_image": (
        lambda root: edit_row(root, "images", 2, lambda row: row.update(perceptual_hash=7)),
        f"images/{SHARD}, row",
        "perceptual_hash: is 7, but the image's is",
    ),
}
"""How to break a sound dataset so that one check fails, the place that is named, and a part of the message."""


@pytest.mark.parametrize("check", BROKEN)
def test_a_check_finds_its_fault_and_no_other_does(root: Path, check: str) -> None:
    break_it, place, message = BROKEN[check]
    break_it(root)
    found = findings(root)
    assert {fault.check for fault in found.faults} == {check}, [str(fault) for fault in found.faults]
    first = str(found.faults[0])
    assert first.startswith(f"{check}: {place}"), first
    assert message in first
    assert found.counts[check] == len(found.faults)


LOOSE = loose_mask(np.arange(20) < np.full((20, 1), 19))["mask"]
"""A mask whose last column of pixels is empty."""
BROKEN_CORRECTIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "masks_in_image": (edit_drawn_mask(x0=45), "corrections/drawn, row 0, mask: the bounds 45, 0, 65, 20 are not"),
    "run_lengths_of_masks": (edit_drawn_mask(width_px=21), "corrections/drawn, row 0, mask: the run lengths have 400"),
    "tight_bounds": (edit_drawn_mask(**LOOSE), "corrections/drawn, row 0, mask: no pixel is at the right"),
    "areas": (
        in_file(MASKS, lambda rows: rows[0]["candidates"][0]["segment"].update(area_px=401)),
        f"corrections/masks/{SHARD}, row 0, candidates[0].segment.area_px: is 401, but the mask has 400 pixels",
    ),
    "readable": (damage(f"corrections/masks/{SHARD}.parquet"), f"corrections/masks/{SHARD}: "),
}
"""How to break the masks of corrections so that a check fails, and the beginning of the message."""


@pytest.mark.parametrize("check", BROKEN_CORRECTIONS)
def test_masks_of_corrections_are_checked_like_others(root: Path, check: str) -> None:
    break_it, message = BROKEN_CORRECTIONS[check]
    break_it(root)
    (fault,) = findings(root, pixels=False).faults
    assert str(fault).startswith(f"{check}: {message}")


def rename(folder: str) -> Callable[[Path], Any]:
    return lambda root: (root / folder / f"{NEXT}.parquet").rename(root / folder / "shard-00099.parquet")


def break_values(root: Path) -> None:
    """Break keys and numbers of the optional folders, each in a place of its own."""

    def break_confirmations(rows: list[Record]) -> None:
        rows[0]["confirmations"][0].update(label_quality=None)
        rows[0]["overlooked"][0].update(score=2.0)
        rows[0]["overlooked"][0]["box"].update(x1=65.0)
        rows[-1].update(key=b"\xff" * 16)

    in_file("confirmations", break_confirmations)(root)
    edit_embedding(lambda numbers: numbers + np.inf)(root)
    in_file("similar", lambda rows: rows[0].update(key=bytes(16), original=bytes(16), cosine=1.1))(root)


BROKEN_OPTIONAL: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "values": (
        break_values,
        (
            f"same_rows: confirmations/{SHARD}, row 2, key: is no kept row of entities/",
            f"confirmations_of_candidates: confirmations/{SHARD}, row 0, confirmations[0].label_quality: is missing",
            f"boxes_in_image: confirmations/{SHARD}, row 0, overlooked[0].box: 0, 0, 65, 20 is not inside the image",
            f"scores: confirmations/{SHARD}, row 0, overlooked[0].score: 2 is not between 0 and 1",
            f"unit_embeddings: embeddings/{SHARD}, row 5, embedding: has numbers that are not finite",
            f"similar_images: similar/{SHARD}, row 0, key: has no embedding in embeddings/",
            f"similar_images: similar/{SHARD}, row 0, original: is the image itself",
            f"similar_images: similar/{SHARD}, row 0, cosine: 1.1 is not between -1 and 1",
        ),
    ),
    "order": (
        in_file("embeddings", swap_rows),
        (f"row_order: embeddings/{SHARD}, row 1, key: comes after",),
    ),
    "files": (
        lambda root: (damage(f"embeddings/{SHARD}.parquet")(root), rename("similar")(root)),
        (f"complete_files: embeddings/{SHARD}: ", "complete_files: similar/shard-00099: "),
    ),
}
"""How to break optional folders in other ways, and the beginnings of the messages."""


@pytest.mark.parametrize("kind", BROKEN_OPTIONAL)
def test_optional_folders_are_checked_like_layers(root: Path, kind: str) -> None:
    break_them, messages = BROKEN_OPTIONAL[kind]
    break_them(root)
    found = [str(fault) for fault in findings(root, pixels=False).faults]
    assert [message for message in messages if not any(fault.startswith(message) for fault in found)] == [], found


def test_damaged_columns_are_reported_and_the_other_files_are_checked(root: Path) -> None:
    path = root / "captions" / f"{SHARD}.parquet"
    flip(path, path.read_bytes().rindex(ZSTD))
    change_sha256(root)
    found = findings(root)
    assert {fault.check for fault in found.faults} == {"readable", "checksum", "sha256_of_image"}
    (fault,) = (fault for fault in found.faults if fault.check == "readable")
    assert (fault.layer, fault.shard) == ("captions", SHARD)
    assert "is damaged" in fault.message


def test_every_check_is_tested_and_described() -> None:
    assert {*BROKEN, "readable"} == set(descriptions())
    assert all(descriptions().values())


def test_the_reference_lists_the_checks() -> None:
    rows = "\n".join(f"| `{name}` | {about} |" for name, about in descriptions().items())
    assert f"| check | what must hold |\n|---|---|\n{rows}\n" in REFERENCE.read_text()


def test_only_the_faults_of_chosen_layers_count(root: Path) -> None:
    change_sha256(root)
    edit_entity(span_end=99)(root)
    found = findings(root, layers=(Layer.IMAGES,))
    assert [(fault.check, fault.layer) for fault in found.faults] == [("sha256_of_image", "images")]
    assert set(found.rows) == {"images"}


def test_without_pixels_no_image_is_decoded(root: Path) -> None:
    change_sha256(root)
    change_footer(root)
    assert findings(root, pixels=False).faults == []


def test_all_faults_are_counted_and_the_first_are_kept(root: Path) -> None:
    edit(
        root / "entities" / f"{SHARD}.parquet",
        lambda rows: [c.update(score=2.0) for r in rows for c in r["candidates"] or ()],
    )
    found = findings(root, kept_faults=2)
    assert found.counts == {"scores": 4}
    assert len(found.faults) == 2


def test_processes_find_what_one_process_finds(root: Path) -> None:
    change_sha256(root)
    edit(root / "sdd" / f"{NEXT}.parquet", lambda rows: rows[0].update(alt_text="other"))
    *_, last = validate(str(root), Scope(), workers=2)
    assert last.faults == findings(root).faults
    assert last.rows == findings(root).rows


def test_a_dataset_of_version_1_is_checked(tmp_path: Path) -> None:
    """Its keys, scores and hashes are invented."""
    invented = {"keys_of_urls", "list_rows", "copied_columns", "perceptual_hash_of_image"}
    assert set(findings(Path(shutil.copytree(OLD, tmp_path / "old"))).counts) == invented
