"""Credentials that URLs carry, kept out of records and messages."""

import re
from typing import Any

HIDDEN = "***"
_URL = re.compile(r"\w[\w+.-]*://(?:[^\s/?#\"]*@)?[^\s'\"]+")
_USER_INFO = re.compile(r"(?<=://)[^/?#]+@")
_QUERY_VALUE = re.compile(r"(?<=[?&])([^=&#]+)=[^&#]+")


def redact(text: str) -> str:
    """`text` with the user information and all query values of its URLs hidden.

    Presigned URLs carry their signature in the query, under a name that each store chooses, so no value is shown.
    """
    return _URL.sub(lambda url: _redact_url(url[0]), text)


def redact_all(value: Any) -> Any:
    """`value`, as JSON holds it, with every string redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_all(part) for key, part in value.items()}
    if isinstance(value, list):
        return [redact_all(part) for part in value]
    return value


def _redact_url(url: str) -> str:
    return _QUERY_VALUE.sub(rf"\1={HIDDEN}", _USER_INFO.sub(f"{HIDDEN}@", url))
