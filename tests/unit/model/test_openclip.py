"""OpenCLIP is imported without wandb, and other imports of wandb are unaffected."""

import sys

from infra.imports import without_wandb


def imported_with_the_trainer() -> list[str]:
    import training.loop  # noqa: F401

    return [name for name in ("open_clip", "timm", "wandb") if name in sys.modules]


def test_the_trainer_does_not_import_wandb(processes):
    """It makes folders in the temporary directory, which a killed process leaves behind."""
    assert processes.fork(imported_with_the_trainer).result() == ["open_clip", "timm"]


def test_the_package_is_left_out_inside_the_block_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with without_wandb():
        import wandb

        assert not hasattr(wandb, "init")
    assert "wandb" not in sys.modules


def test_where_it_was_imported_before_it_stays(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", sys)
    with without_wandb():
        import wandb

        assert wandb is sys
    assert sys.modules["wandb"] is sys
