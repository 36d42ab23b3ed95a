"""Redaction of credentials in URLs, for records and messages."""

import re

HIDDEN = "***"
_URL = re.compile(r"\w[\w+.-]*://(?:[^\s/?#\"]*@)?[^\s'\"]+")
_USER_INFO = re.compile(r"(?<=://)[^/?#]+@")
_QUERY_VALUE = re.compile(r"(?<=[?&])([^=&#]+)=[^&#]+")


def redact(text: str) -> str:
    """Hide the user information and all query values of the URLs in `text`.

    Presigned URLs carry their signature in the query, under a name that each store chooses, so no value is shown.
    """
    return _URL.sub(lambda url: _redact_url(url[0]), text)


def redact_all(value: object) -> object:
    """Redact every string of a JSON value."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_all(part) for key, part in value.items()}
    if isinstance(value, list):
        return [redact_all(part) for part in value]
    return value


def _redact_url(url: str) -> str:
    return _QUERY_VALUE.sub(rf"\1={HIDDEN}", _USER_INFO.sub(f"{HIDDEN}@", url))
