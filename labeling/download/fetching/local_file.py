"""Images of `file:` URLs, which name files inside one folder: the setting `labeling.download.folder`.

missing_file  unreadable_file  outside_folder  too_large     why there is no body
"""

import os
import stat
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote_to_bytes

from labeling.download.fetching.fetch_result import DETAIL_LENGTH, FetchedBody, FetchFailure, FetchResult

_SCHEME = "file:"


def file_url(name: PurePosixPath) -> str:
    """Return the URL of a file by its path relative to the folder."""
    return _SCHEME + quote(os.fsencode(str(name)))  # names need not be UTF-8


def is_file_url(url: str) -> bool:
    """Return whether `url` names a local file."""
    return url.startswith(_SCHEME)


def read_file_url(url: str, folder: Path, max_bytes: int) -> FetchResult:
    """Return the content of the file that `url` names in `folder`, an absolute path; else the reason. Never raises."""
    path = Path(os.path.normpath(folder / os.fsdecode(unquote_to_bytes(url.removeprefix(_SCHEME)))))
    try:
        if not path.is_relative_to(folder):  # by name: the folder's own links may lead elsewhere
            return FetchFailure("outside_folder", f"{path} is outside {folder}"[:DETAIL_LENGTH])
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            return FetchFailure("unreadable_file", f"{path} is not a file"[:DETAIL_LENGTH])
        if status.st_size > max_bytes:
            return FetchFailure("too_large", f"{status.st_size:,} bytes are more than {max_bytes:,}")
        return FetchedBody(path.read_bytes())
    except FileNotFoundError:
        return FetchFailure("missing_file", str(path)[:DETAIL_LENGTH])
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return FetchFailure("unreadable_file", f"{path}: {error}"[:DETAIL_LENGTH])
