"""An imported folder is labelled by the ordinary build, under the captions that its images have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.config import CONFIGS
from labeling.sdd.schema import SddRow
from labeling.sdd.shards import ShardStore
from miniature.scoring.true_layers import read_truth
from miniature.world.names import labelled_names
from miniature.world.scenes import ScenesConfig
from miniature.world.serve import TRUTH, WorldConfig, write_world

CHECKOUT = CONFIGS.parents[1]


def run(*words: str) -> str:
    """Run a verb in the checkout, where the settings of the demo find their weights."""
    command = [sys.executable, "-m", "flows.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a world whose images/ has captions in a metadata.jsonl."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 4, 0, WorldConfig(scenes=ScenesConfig(names=labelled_names()), low_share=0))
    truths = [(Path(url).name, truth.caption) for url, truth in read_truth(folder / TRUTH).items()]
    lines = [json.dumps({"file_name": name, "text": caption}) for name, caption in truths]
    (folder / "images" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_an_imported_folder_is_labelled_under_its_own_captions(world, tmp_path):
    root = tmp_path / "sdd"
    text = run("import", str(world / "images"), str(root), "--format", "folder", "--config", "demo")
    assert text == f"4 kept\nLabel them:  subject-diffusion build --config {root}/import.toml\n"
    no_captioner = ("--set", "labeling.caption.checkpoint=miniature/weights/sam")  # the captioner is never loaded
    run("build", "--config", str(root / "import.toml"), *no_captioner)
    run("status", str(root), "--deep")
    rows = list(ShardStore(str(root)).read(SddRow, ("sdd",), "shard-00000"))
    captions = {truth.caption for truth in read_truth(world / TRUTH).values()}
    assert len(rows) >= 2
    assert {row.caption for row in rows} <= captions
    assert {row.image for row in rows} <= {path.read_bytes() for path in (world / "images").glob("*.jpg")}
