"""Lists of a large JSON object, read item by item."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.errors import ExchangeError
from labeling.exchange import json_items as module
from labeling.exchange.json_items import json_items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)


@given(
    lists=st.dictionaries(st.sampled_from(["images", "annotations"]), st.lists(OBJECTS, max_size=5)),
    others=st.dictionaries(st.text(max_size=3).map("other {}".format), VALUES, max_size=3),
    indent=st.sampled_from([None, 2]),
    piece=st.integers(1, 40),
)
@settings(max_examples=80, deadline=None)
def test_items_are_those_of_the_json(tmp_path_factory, lists, others, indent, piece):
    path = tmp_path_factory.mktemp("json") / "file.json"
    path.write_text(json.dumps({**others, **lists}, indent=indent))
    patched = pytest.MonkeyPatch()
    patched.setattr(module, "_PIECE", piece)  # items are cut by the borders of pieces
    try:
        read = list(json_items(path, ("images", "annotations")))
    finally:
        patched.undo()
    assert read == [(name, item) for name, items in lists.items() for item in items]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [{"id": 1}, {"id": 2', r"after images\[0\]: "),
        ('{"images": [{"id": 1} {"id": 2}]}', r"after images\[0\]: \{ stands where one of ,\] should"),
        ('{"images": [1]}', r"after images\[0\]: '1' is not an object"),
        ('{"images": {}}', "after images: { stands"),
        ("[]", "after its beginning: "),
        ("", "after its beginning: the end stands"),
        ('{"images": []', "after images: the end stands"),
    ],
)
def test_what_is_no_such_json_is_named_with_its_place(tmp_path, text, message):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ExchangeError, match=message):
        list(json_items(tmp_path / "file.json", ("images",)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ExchangeError, match=r"none\.json"):
        list(json_items(tmp_path / "none.json", ("images",)))
