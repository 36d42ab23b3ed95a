"""The API over HTTP: a real server on loopback with the small networks of this repository."""

import asyncio
import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from flows.generation.generator import Generator
from flows.generation.job import parse_job
from flows.generation.png import read_png
from flows.serving.limits import Limits
from tests.pictures import huge_png, picture
from tests.processes import PATIENCE_S, wait_until
from tests.serving import TAXI, as_bytes, data_url, get, images_of, make_service, running
from tests.shipped_model import MAX_SUBJECTS

GENERATIONS = "/v1/images/generations"
TAXI_SUBJECT = {"label": "vehicle", "image": data_url(TAXI.read_bytes())}


@pytest.fixture(scope="module")
def generator():
    return Generator()


@pytest.fixture(scope="module")
def url(generator):
    with running(make_service(generator)) as url:
        yield url


def post(url: str, body: dict, **options) -> httpx.Response:
    return httpx.post(url + GENERATIONS, json=body, timeout=PATIENCE_S, **options)


def refused(response: httpx.Response, status: int = 400) -> dict:
    """The error object of a response that refuses the request."""
    assert response.status_code == status, response.text
    (body,) = response.json().values()
    assert body.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    assert "function-" not in body["message"]
    return body


def grey_levels(image: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(image, int) - np.asarray(other, int)).max())


def test_the_image_is_that_of_python(url, generator):
    settings = {"prompt": "a vehicle in the snow", "n": 2, "seed": 3, "steps": 4, "image_guidance": 2.5}
    subjects = [{"label": "vehicle", "images": str(TAXI), "box": (0.1, 0.2, 0.7, 0.8)}]
    expected = generator.generate(parse_job({**settings, "subjects": subjects}, "test"), TAXI.parents[2])
    body = {**settings, "subjects": [{**TAXI_SUBJECT, "box": [0.1, 0.2, 0.7, 0.8]}]}
    response = post(url, body)
    made = images_of(response)
    assert [grey_levels(one, other.image) <= 1 for one, other in zip(made, expected, strict=True)] == [True, True]
    assert [one["seed"] for one in response.json()["data"]] == [3, 4]
    assert response.json()["data"][0]["boxes"] == [[0.1, 0.2, 0.7, 0.8]]
    assert response.json()["size"] == "64x64"
    other = images_of(post(url, {**body, "subjects": [], "n": 1}))
    assert grey_levels(other[0], made[0]) > 20


def test_a_png_tells_how_it_was_made(url, tmp_path):
    response = post(url, {"prompt": "a tree", "steps": 1, "seed": 8})
    (tmp_path / "tree.png").write_bytes(base64.b64decode(response.json()["data"][0]["b64_json"]))
    _, provenance = read_png(tmp_path / "tree.png")
    assert (provenance.job.prompt, provenance.job.steps, provenance.seed) == ("a tree", 1, 8)


def test_a_seed_of_the_response_makes_the_image_again(url):
    first = post(url, {"prompt": "a tree", "steps": 1})
    again = post(url, {"prompt": "a tree", "steps": 1, "seed": first.json()["data"][0]["seed"]})
    assert grey_levels(images_of(first)[0], images_of(again)[0]) <= 1


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_images_come_in_other_formats(url, kind):
    (image,) = images_of(post(url, {"prompt": "a tree", "steps": 1, "output_format": kind}))
    assert image.format == kind.upper()


BAD_IMAGES = {
    "nothing in it": data_url(Image.new("RGBA", (32, 32))),
    "200 megapixels": data_url(huge_png(14_143)),
    "text": data_url(b"this is text"),
    "half a file": data_url(TAXI.read_bytes()[:900]),
    "empty": "",
    "no base64": "data:image/png;base64,####",
    "a URL": "http://127.0.0.1:1/cat.png",
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_refused_with_its_field(url, name):
    error = refused(post(url, {"prompt": "x", "steps": 1, "subjects": [{"label": "cat", "image": BAD_IMAGES[name]}]}))
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith("subjects.0.image")
    assert "subjects.0.image" in error["message"]


GOOD_IMAGES = {
    "1x1": as_bytes(Image.new("RGBA", (1, 1), (9, 9, 9, 255)), "PNG"),
    "CMYK": as_bytes(picture("RGB").convert("CMYK"), "JPEG"),
    "16 bits": as_bytes(Image.fromarray((np.arange(1600, dtype=np.uint16) * 40).reshape(40, 40)), "PNG"),
    "animated": as_bytes(picture("RGB"), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 40))]),
}


@pytest.mark.parametrize("name", GOOD_IMAGES)
def test_an_unusual_image_is_taken_with_a_mask(url, name):
    with Image.open(io.BytesIO(GOOD_IMAGES[name])) as image:
        mask = Image.new("L", image.size, 255)
    subject = {"label": "cat", "image": data_url(GOOD_IMAGES[name]), "mask": data_url(mask)}
    images_of(post(url, {"prompt": "a cat", "steps": 1, "subjects": [subject]}))


def test_an_opaque_picture_is_cut_out_by_the_detector_and_its_image_made_again(url, tmp_path):
    """The small detector knows the things of the miniature world, of which this is one."""
    scene = Image.new("RGB", (64, 64), (90, 160, 90))
    with Image.open(TAXI) as taxi:
        scene.paste(taxi.convert("RGBA").resize((40, 40)), (12, 14), taxi.convert("RGBA").resize((40, 40)))
    subject = {"label": "vehicle", "image": data_url(scene)}
    response = post(url, {"prompt": "x", "steps": 1, "seed": 1, "subjects": [subject]})
    x0, _, x1, _ = response.json()["data"][0]["boxes"][0]
    assert 0.1 < x0 < x1 < 0.9, response.text
    scene.save(tmp_path / "scene.png")
    (tmp_path / "made.png").write_bytes(base64.b64decode(response.json()["data"][0]["b64_json"]))
    words = ["generate", "--from", str(tmp_path / "made.png"), "--subject", str(tmp_path / "scene.png")]
    done = CliRunner().invoke(app, [*words, "--device", "cpu", "--out", str(tmp_path / "again")])
    assert (done.exit_code, "identical" in done.stderr) == (0, True), done.output


def test_an_opaque_picture_without_the_subject_is_refused_with_the_fields_that_mark_it(url):
    subject = {"label": "unicorn", "image": data_url(Image.new("RGB", (64, 64), "blue"))}
    error = refused(post(url, {"prompt": "x", "steps": 1, "subjects": [subject]}))
    assert error["param"] == "subjects.0.image"
    assert "`mask`, or transparency, marks the subject" in error["message"]


BAD_FIELDS = {
    "prompt": {"prompt": "x" * 40_000},
    "n": {"n": 11},
    "steps": {"steps": 100_000},
    "size": {"size": "8000x8000"},
    "scheduler": {"scheduler": "Nope"},
    "seed": {"seed": -1},
    "text_guidance": {"text_guidance": "much"},
    "subjects.0.box": {"subjects": [{**TAXI_SUBJECT, "box": [0.1, 0.1, 1.7, 0.9]}]},
    "subjects.0.label": {"subjects": [{"image": TAXI_SUBJECT["image"]}]},
    "subjects": {"subjects": [TAXI_SUBJECT] * 9},
    "response_format": {"response_format": "url"},
    "stream": {"stream": True},
    "imagination": {"imagination": 3},
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_bad_field_is_named(url, field):
    error = refused(post(url, {"prompt": "x", "steps": 1, **BAD_FIELDS[field]}))
    assert error["param"].startswith(field)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"prompt": NaN}', b"[" * 100_000, b'{"prompt": "\xff"}'])
def test_a_body_that_is_no_request_is_refused(url, content):
    headers = {"Content-Type": "application/json"}
    refused(httpx.post(url + GENERATIONS, content=content, headers=headers, timeout=PATIENCE_S))


def test_long_and_empty_prompts_are_taken(url):
    response = post(url, {"prompt": "a dog " * 1667, "steps": 1})
    images_of(response)
    assert "cut" in response.json()["data"][0]["remarks"][0]
    images_of(post(url, {"prompt": "", "steps": 1}))


def test_other_models_and_paths_are_not_found(url):
    assert "subject_diffusion" in refused(post(url, {"prompt": "x", "model": "gpt-image-2"}), 404)["message"]
    refused(get(url + "/v1/nothing"), 404)
    refused(get(url + GENERATIONS), 405)


def edit(url: str, fields: dict, *files: tuple[str, bytes]) -> httpx.Response:
    parts = [(name, ("image.png", content)) for name, content in files]
    return httpx.post(url + "/v1/images/edits", data=fields, files=parts, timeout=PATIENCE_S)


def test_an_edit_keeps_the_photo_outside_of_the_region(url):
    photo = Image.effect_noise((96, 80), 90).convert("RGB")
    mask = Image.new("RGBA", photo.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (20, 20, 70, 70))
    fields = {"prompt": "a vehicle", "steps": "2", "seed": "1", "subjects": json.dumps([TAXI_SUBJECT]), "feather_px": 2}
    (made,) = images_of(edit(url, fields, ("image", as_bytes(photo)), ("mask", as_bytes(mask))))
    before, after = np.asarray(photo), np.asarray(made)
    assert (before[:16] == after[:16]).all()
    assert (before[30:60, 30:60] != after[30:60, 30:60]).mean() > 0.5


def test_an_edit_takes_the_pictures_of_its_subjects_as_files(url):
    fields = {"prompt": "a vehicle", "steps": "1", "subjects": '[{"label": "vehicle", "box": [0.2, 0.2, 0.8, 0.9]}]'}
    photo = ("image[]", as_bytes(Image.new("RGB", (64, 64), "green")))
    images_of(edit(url, fields, photo, ("image[]", TAXI.read_bytes())))
    assert refused(edit(url, fields, photo))["param"] == "image"
    assert refused(edit(url, fields))["param"] == "image"
    assert refused(edit(url, {**fields, "subjects": "[3]"}, photo))["param"] == "subjects"
    assert refused(edit(url, {**fields, "steps": "many"}, photo, photo))["param"] == "steps"
    assert refused(edit(url, fields, ("image", b"text"), ("image", TAXI.read_bytes())))["param"] == "image"


def test_the_client_of_openai_works(url):
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S)
    (model,) = client.models.list().data
    extra = {"subjects": [TAXI_SUBJECT], "steps": 1, "seed": 5}
    made = client.images.generate(prompt="a vehicle", model=model.id, n=2, size="auto", extra_body=extra)
    assert len(made.data) == 2
    subjects = json.dumps([{**TAXI_SUBJECT, "box": [0.2, 0.2, 0.8, 0.8]}])
    photo = as_bytes(Image.new("RGB", (64, 64), "navy"))
    edited = client.images.edit(image=photo, prompt="a vehicle", extra_body={"subjects": subjects, "steps": 1})
    assert edited.data[0].b64_json
    with pytest.raises(openai.BadRequestError, match=f"this model takes {MAX_SUBJECTS}"):
        client.images.generate(prompt="x", extra_body={"subjects": [TAXI_SUBJECT] * (MAX_SUBJECTS + 1)})


def test_the_description_has_every_field_and_examples(url):
    description = get(f"{url}/openapi.json").json()
    body = description["paths"][GENERATIONS]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["examples"]) == {"text", "subject", "placed"}
    fields = description["components"]["schemas"]["ImageRequest"]["properties"]
    assert all(field.get("description") for field in fields.values())
    assert get(f"{url}/docs").status_code == 200


def test_a_token_is_needed_everywhere_but_for_health(generator):
    with running(make_service(generator), token="s3cret") as url:
        assert get(f"{url}/healthz").json()["status"] == "ok"
        for path in ("/v1/models", "/", "/docs", "/openapi.json"):
            assert refused(get(url + path), 401)["code"] == "invalid_token"
        refused(post(url, {"prompt": "x"}, headers={"Authorization": "Bearer wrong"}), 401)
        images_of(post(url, {"prompt": "x", "steps": 1}, headers={"Authorization": "Bearer s3cret"}))
        page = get(url, headers={"Accept": "text/html"})
        assert (page.status_code, "<form>" in page.text) == (401, True)
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as browser:
            assert browser.get("/?token=wrong").status_code == 401
            assert browser.get("/?token=s3cret").status_code == 303
            assert browser.get("/v1/models").status_code == 200


@pytest.mark.parametrize("headers", [{"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}])
def test_other_websites_are_refused(url, headers):
    refused(get(f"{url}/v1/models", headers=headers), 403)
    assert get(f"{url}/v1/models", headers={"Origin": url}).status_code == 200


def test_above_the_bound_of_the_queue_requests_wait_elsewhere(generator):
    service = make_service(generator, Limits(max_waiting=2))
    with running(service) as url, ThreadPoolExecutor(6) as pool:
        responses = list(pool.map(lambda seed: post(url, {"prompt": "x", "seed": seed, "steps": 20}), range(6)))
        codes = sorted(response.status_code for response in responses)
        assert codes[:3] == [200] * 3
        assert codes[-1] == 429
        full = next(response for response in responses if response.status_code == 429)
        assert refused(full, 429)["type"] == "rate_limit_error"
        assert int(full.headers["Retry-After"]) >= 1
        images_of(post(url, {"prompt": "x", "steps": 1}))


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_are_bounded(generator, chunked):
    limits = Limits(max_body_bytes=100_000, max_held_bytes=150_000)
    with running(make_service(generator, limits)) as url:
        body = json.dumps({"prompt": "x" * 200_000}).encode()
        content = iter([body[:9_000], body[9_000:]]) if chunked else body
        headers = {"Content-Type": "application/json"}
        refused(httpx.post(url + GENERATIONS, content=content, headers=headers, timeout=PATIENCE_S), 413)
        images_of(post(url, {"prompt": "x", "steps": 1}))


def test_bodies_of_all_requests_together_are_bounded(generator):
    limits = Limits(max_body_bytes=100_000, max_held_bytes=150_000, max_prompt_characters=100_000)
    service = make_service(generator, limits)
    with running(service) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, url, {"prompt": "x" * 90_000, "steps": 40})
        wait_until("the first run", lambda: not service.queue.idle)
        second = post(url, {"prompt": "x" * 90_000, "steps": 1})
        assert "try again later" in refused(second, 429)["message"]
        assert int(second.headers["Retry-After"]) >= 1
        images_of(first.result())
        images_of(post(url, {"prompt": "x" * 90_000, "steps": 1}))


def test_a_client_that_goes_away_cancels_its_run(generator):
    service = make_service(generator)
    with running(service) as url:

        async def go_away() -> None:
            async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
                asking = [
                    asyncio.create_task(client.post(url + GENERATIONS, json={"prompt": "x", "steps": 200}))
                    for _ in range(2)
                ]
                while service.queue.waiting < 1:
                    await asyncio.sleep(0.01)
                for task in asking:
                    task.cancel()

        asyncio.run(go_away())
        wait_until("the end of the runs", lambda: service.queue.idle)
        images_of(post(url, {"prompt": "x", "steps": 1}))
