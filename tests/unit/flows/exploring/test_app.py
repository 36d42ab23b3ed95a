"""The explorer's API over HTTP: answers, errors, and who is refused."""

import asyncio
import io
import json
from collections.abc import Iterator

import httpx
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.exploring.app import make_app
from labeling.config import SegmentConfig
from tests.box_segmenter import load_box_segmenter
from tests.datasets import NEXT, dataset_of_two
from tests.exploring import exploring, make_explorer
from tests.factories import SHARD, image, key
from tests.processes import PATIENCE_S


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    root = dataset_of_two(tmp_path_factory.mktemp("explored") / "sdd")
    return make_explorer(root, lambda: load_box_segmenter(SegmentConfig()))


@pytest.fixture(scope="module")
def client(explorer) -> Iterator[httpx.Client]:
    with exploring(explorer) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


def place(number: int) -> dict[str, str]:
    return {"shard": SHARD if number < 20 else NEXT, "key": key(number).hex()}


def test_pages_follow_each_other(client):
    first = client.post("/api/page", json={"size": 10}).json()
    after = first["cards"][-1]["place"]
    second = client.post("/api/page", json={"size": 10, "after": after}).json()
    shown = [card["place"]["key"] for page in (first, second) for card in page["cards"]]
    assert shown == [key(n).hex() for n in (*range(1, 13), *range(21, 25))]
    assert (first["is_last"], second["is_last"]) == (False, True)


def test_counts_and_facets_take_a_filter(client):
    body = {"images": {"labels": ["dog"]}}
    assert client.post("/api/count", json=body).json() == {"count": 4}
    assert client.post("/api/facets/label", json=body).json() == [
        {"value": ["dog"], "count": 4},
        {"value": ["cat"], "count": 2},
    ]


def test_a_query_stops_when_the_page_closes_its_request(explorer):
    sql = "SELECT count(*) FROM range(1000000000000) AS one WHERE hash(one) = 1"
    messages = [{"type": "http.request", "body": json.dumps({"sql": sql}).encode(), "more_body": False}]
    answers = []

    async def receive():
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message):
        answers.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/sql",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    asyncio.run(make_app(explorer, None)(scope, receive, send))
    assert json.loads(answers[1]["body"])["error"]["message"] == "the query was stopped"


def test_pictures_and_thumbnails(client):
    picture = client.get(f"/pictures/{NEXT}/{key(22).hex()}")
    assert (picture.headers["content-type"], picture.content) == ("image/jpeg", image(22).image)
    thumbnail = client.get(f"/thumbnails/{NEXT}/{key(22).hex()}.webp")
    assert Image.open(io.BytesIO(thumbnail.content)).size == (64, 48)
    missing = client.get(f"/thumbnails/{SHARD}/{key(7).hex()}.webp")
    assert (missing.status_code, "has no image" in missing.json()["error"]["message"]) == (400, True)


def test_keys_of_a_selection_and_of_a_filter(client):
    chosen = client.post("/api/keys", json={"format": "txt", "places": [place(22), place(3)]})
    assert chosen.text.split() == [key(22).hex(), key(3).hex()]
    kept = client.post("/api/keys", json={"format": "parquet", "images": {"states": ["kept"]}})
    assert pq.read_table(io.BytesIO(kept.content))["key"].to_pylist() == [key(n) for n in (1, 2, 21, 22, 23)]


def test_a_mask_is_proposed_for_a_box_and_saved_with_it(client):
    box = {"x0": 10.0, "y0": 10.0, "x1": 40.0, "y1": 40.0}
    proposed = client.post("/api/masks", json={"place": place(2), "box": box}).json()
    assert proposed["outline"].startswith("M")
    seen = client.get(f"/api/images/{SHARD}/{key(2).hex()}").json()["ledger"]["candidates"][0]
    change = {"seen": {"label": "dog", "box": seen["box"]}, "label": "dog", "box": box}
    saved = client.post("/api/corrections", json={"place": place(2), "changes": [change]}).json()
    shown = client.get(f"/api/corrections/{SHARD}/{key(2).hex()}").json()
    assert [each["action"] for each in saved["corrections"]] == [each["action"] for each in shown] == ["moved"]
    again = client.post("/api/corrections", json={"place": place(2), "changes": [change | {"label": ""}]})
    assert (again.status_code, "needs a label" in again.json()["error"]["message"]) == (400, True)


def test_an_audit_is_drawn_once_and_marked(client):
    assert client.post("/api/audits", json={"name": "first", "size": 100}).json()["images"] == 9
    again = client.post("/api/audits", json={"name": "first", "size": 100})
    assert (again.status_code, "exists" in again.json()["error"]["message"]) == (400, True)
    marked = client.post("/api/audits/first/marks", json={"place": place(21), "mark": "high_quality"}).json()
    assert marked["marked"] == 1
    audit = client.get("/api/audits/first").json()
    assert audit["gallery"]["high_quality"] == [place(21)]
    assert [each["marked"] for each in client.get("/api/audits").json()] == [1]
    assert client.get("/api/audits/..%2fcorrections").status_code in (400, 404)


@pytest.mark.parametrize("sql", ["COPY labels TO '/tmp/out.csv'", "FROM read_text('/etc/hostname')", "SELEC"])
def test_sql_that_is_refused_is_an_error_with_its_reason(client, sql):
    answer = client.post("/api/sql", json={"sql": sql})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert client.post("/api/sql", json={"sql": "SELECT key FROM sdd LIMIT 1"}).json()["rows"] == [[key(1).hex()]]


@pytest.mark.parametrize(
    "path", ["/pictures/..%2f..%2fetc/0", f"/pictures/shard-00000/{'0' * 31}", "/thumbnails/x/0.webp", "/..%2fapp.py"]
)
def test_other_paths_lead_nowhere(client, path):
    assert client.get(path).status_code in (400, 404)


@pytest.mark.parametrize("headers", [{"Origin": "https://example.com"}, {"Host": "rebound.example.com"}])
def test_pages_of_other_websites_are_refused(client, headers):
    for method, path in (("GET", "/"), ("GET", "/api/dataset"), ("POST", "/api/page")):
        answer = client.request(method, path, headers=headers, json={} if method == "POST" else None)
        assert answer.status_code == 403, path


def test_the_page_may_load_from_this_server_only(client):
    answer = client.get("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "<script" in answer.text
    assert "://" not in answer.text


def test_with_a_token_every_path_asks_for_it(explorer):
    with exploring(explorer, token="s3cret") as url:
        for path in ("/", "/api/dataset", f"/pictures/{NEXT}/{key(22).hex()}"):
            assert httpx.get(f"{url}{path}", timeout=PATIENCE_S).status_code == 401
        bearer = {"Authorization": "Bearer s3cret"}
        assert httpx.get(f"{url}/api/dataset", headers=bearer, timeout=PATIENCE_S).status_code == 200
