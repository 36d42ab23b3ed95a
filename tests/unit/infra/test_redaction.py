"""What a URL carries to be let in is hidden, and the rest stays readable."""

import pytest

from infra.redaction import redact, redact_all

SIGNED = "https://b.s3.amazonaws.com/list.parquet?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=5ec4e7&X-Amz-Expires=60"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:5ec4e7@host/a.csv", "https://***@host/a.csv"),
        ("https://5ec4e7@host:8080/a.csv", "https://***@host:8080/a.csv"),
        ("simplecache::https://user:5ec4e7@host/a.csv", "simplecache::https://***@host/a.csv"),
        ("https://user:5e@c4@e7@host/a.csv", "https://***@host/a.csv"),
        ("'https://user:5e'c4e7@host/a.csv': no such file", "'https://***@host/a.csv': no such file"),
        ("'https://host/a.csv' of user@host", "'https://host/a.csv' of user@host"),
        ("https://host/a.csv?sig=5ec4e7#top", "https://host/a.csv?sig=***#top"),
        (f"'{SIGNED}': no such file", "'https://b.s3.amazonaws.com/list.parquet?X-Amz-Credential=***&X-Amz-Signature=***"
         "&X-Amz-Expires=***': no such file"),
        ("https://host/mail@home/a.csv", "https://host/mail@home/a.csv"),
        ("s3://bucket/sdd and out/what?a=b", "s3://bucket/sdd and out/what?a=b"),
    ],
)  # fmt: skip
def test_only_what_lets_one_in_is_hidden(text, shown):
    assert redact(text) == shown


def test_every_string_of_a_record_is_looked_at():
    record = {"root": "s3://k:5ec4e7@bucket", "n": 1, "lists": [SIGNED, None, {"deep": SIGNED}]}
    assert "5ec4e7" not in str(redact_all(record))
    assert redact_all(record)["n"] == 1
