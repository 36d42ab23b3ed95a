"""Settings: defaults in code, differences in files, mistakes in one line."""

import pytest
from pydantic import ValidationError

from infra.config import CONFIGS, Config, SettingsError, find, load


class Optics(Config):
    zoom: float = 1.0
    filters: tuple[str, ...] = ()


class Camera(Config):
    name: str
    megapixels: int = 12
    optics: Optics = Optics()
    spare: Optics | None = None


class Studio(Config):
    labeling: Camera
    model: Optics = Optics()


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / f"{name}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def told(config, *overrides):
    with pytest.raises(SettingsError) as error:
        load(Studio, config, overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_file_states_differences_only(write):
    studio = load(Studio, write("a", 'labeling.name = "a"\nlabeling.optics.zoom = 2.5'))
    assert studio.labeling == Camera(name="a", optics=Optics(zoom=2.5))
    assert studio.model == Optics()


def test_a_file_extends_others_and_wins(write):
    write("grand/base", 'labeling.name = "base"\nlabeling.megapixels = 1\nlabeling.optics.zoom = 1.5')
    write("grand/child", 'extends = "base"\nlabeling.megapixels = 2\nmodel.zoom = 9.0')
    studio = load(Studio, write("own", 'extends = "grand/child"\nlabeling.optics.filters = ["red"]'))
    assert studio.labeling == Camera(name="base", megapixels=2, optics=Optics(zoom=1.5, filters=("red",)))
    assert studio.model.zoom == 9.0


def test_a_file_anywhere_may_extend_one_of_ours(write):
    assert load(Config, write("own", 'extends = "paper"')) == Config()


def test_overrides_win_in_order_and_are_toml_values_or_bare_words(write):
    path = write("a", 'labeling.name = "a"')
    overrides = ["labeling.name=bare", "labeling.megapixels=3", "labeling.megapixels=4", 'model.filters=["x", "y"]']
    studio = load(Studio, path, iter([*overrides, "labeling.optics.zoom=0.5"]))
    assert studio.labeling == Camera(name="bare", megapixels=4, optics=Optics(zoom=0.5))
    assert studio.model.filters == ("x", "y")
    assert load(Studio, None, ["labeling.name=s3://bucket/a=b"]).labeling.name == "s3://bucket/a=b"


def test_tables_of_other_entry_points_are_left_to_them(write):
    path = write("a", 'labeling.name = "a"\ntraining.anything = 1')
    assert load(Studio, path).labeling.name == "a"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("labeling.megapixels = 1", ["labeling.name", "is required", "--set labeling.name=VALUE"]),
        ('labeling.name = "a"\nlabeling.megapixel = 1', ["labeling.megapixel:", "did you mean megapixels?"]),
        ('labeling.name = "a"\nlabeling.optics.zzz = 1', ["labeling.optics.zzz:", "there are zoom, filters"]),
        ('labeling.name = "a"\nlabeling.spare.zom = 1', ["labeling.spare.zom:", "did you mean zoom?"]),
        ('labeling.name = "a"\nlabeling.megapixels = "many"', ["labeling.megapixels:", "integer", "(got 'many')"]),
        ('labeling.name = "a"\nlabeling.optics = 3', ["labeling.optics:", "dictionary", "(got 3)"]),
        ('labeling.name = "a"\nlabeling.optics.zoom = nan', ["labeling.optics.zoom:", "finite", "(got nan)"]),
        ('labelling.name = "a"', ["unknown table 'labelling'", "labeling, model, training"]),
        ("labeling.name = a", ["not TOML", "line 1"]),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_file(write, text, parts):
    path = write("wrong", text)
    message = told(path)
    for part in (str(path), *parts):
        assert part in message


def test_of_a_table_that_is_missing_what_has_no_default_is_asked_for():
    assert told(None) == "settings: labeling: is required (--set labeling.name=VALUE)"


def test_an_override_that_nobody_reads_is_told():
    assert told(None, "training.steps=3") == "--set training.steps=3: this command reads labeling, model"


def test_all_mistakes_are_told_at_once(write):
    message = told(write("wrong", "labeling.megapixels = 1.5\nmodel.zoom = true\nmodel.zoon = 1"))
    assert [part in message for part in ("labeling.name", "labeling.megapixels", "model.zoon")] == [True] * 3


def test_text_that_is_no_utf_8_is_no_toml(tmp_path):
    path = tmp_path / "latin.toml"
    path.write_bytes('labeling.name = "é"'.encode("latin-1"))
    assert f"{path}: not TOML" in told(path)


def test_a_file_that_is_not_there_is_told_with_those_that_are(tmp_path):
    message = told(tmp_path / "nowhere.toml")
    assert "nowhere.toml: no such file" in message
    assert "paper" in message
    assert "ablations/e_no_adapter" in message


def test_a_missing_parent_is_told_with_the_child(write):
    path = write("child", 'extends = "nobody"')
    message = told(path)
    for part in (str(path), "extends = 'nobody'", "nobody.toml is neither", str(CONFIGS)):
        assert part in message


def test_files_that_extend_each_other_are_told(write):
    write("b", 'extends = "a"')
    assert "forms a circle" in told(write("a", 'extends = "b"'))
    assert "forms a circle" in told(write("own", 'extends = "own"'))


@pytest.mark.parametrize("override", ["labeling", "labeling=3", "name=3", ""])
def test_an_override_without_table_key_or_value_is_told(override):
    assert f"--set {override}: give table.key=value" in told(None, override)


def test_a_mistake_in_an_override_is_told_as_one(write):
    path = write("a", 'labeling.name = "a"\nlabeling.optics.zoom = 2.0')
    assert f"{path} with --set: labeling.megapixels:" in told(path, "labeling.megapixels=many")
    assert "labeling.optics: Input should be a valid dictionary" in told(path, "labeling.optics=3")
    assert "labeling.name: Input should be a valid string (got {'x': 1})" in told(path, "labeling.name.x=1")


def test_a_name_stands_for_a_file_of_infra_configs():
    assert find("paper") == CONFIGS / "paper.toml"
    assert find("ablations/e_no_adapter") == CONFIGS / "ablations" / "e_no_adapter.toml"
    assert find(CONFIGS / "paper.toml") == CONFIGS / "paper.toml"


def test_a_file_here_comes_before_one_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").write_text('labeling.name = "mine"')
    assert load(Studio, "paper").labeling.name == "mine"


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Optics().zoom = 2.0


def test_a_fingerprint_changes_exactly_when_a_setting_does():
    camera = Camera(name="a")
    assert camera.fingerprint() == Camera(name="a", megapixels=12, optics=Optics(zoom=1.0)).fingerprint()
    others = [Camera(name="b"), Camera(name="a", megapixels=13), Camera(name="a", optics=Optics(zoom=1.1))]
    assert len({c.fingerprint() for c in [camera, *others]}) == 4
    assert len(camera.fingerprint()) == 12
