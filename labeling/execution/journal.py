"""Journal of a shard: a file that names the rows in flight, so that a row that kills its process can be identified.

The keys of a batch are written before the batch is sent. Keys that are found after a death are *suspects*: their rows
are replayed one by one, and a row that was alone when its process died again is quarantined. The journal also holds
how many rows are done, for the display of progress, and how often the shard was started.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import BaseModel
from upath import UPath

from infra.ranges import CountOrZero
from infra.storage import contents, is_local

log = logging.getLogger(__name__)
MAX_LONE_DEATHS = 2
"""Deaths of a process with a single row in flight after which the row is quarantined."""
MAX_LONE_ORPHANS = 3
"""The same for deaths together with the supervisor, as by a power cut, for which the row may not be the cause."""
_ORPHANED = "its supervisor died"


class JournalFile(BaseModel):
    """Content of a journal's file; the fields of `Journal`."""

    run: str = ""
    done: CountOrZero = 0
    attempts: CountOrZero = 0
    loading: bool = False
    in_flight: list[str] = []
    suspects: list[str] = []
    lone_deaths: dict[str, int] = {}
    lone_orphans: dict[str, int] = {}
    causes: dict[str, str] = {}


@dataclass
class Journal:
    """Journal of one shard of one stage."""

    path: UPath
    run: str
    """Name of the run that began the shard last."""
    done: int = 0
    """Rows that have an outcome."""
    attempts: int = 0
    """Times that this run started the shard."""
    loading: bool = False
    """Whether the network is being loaded."""
    in_flight: list[str] = field(default_factory=list)
    """Keys (hex) of the rows that the process has."""
    suspects: set[str] = field(default_factory=set)
    """Keys of rows that were in flight when a process died; each is sent alone."""
    lone_deaths: dict[str, int] = field(default_factory=dict)
    """Deaths per key while its row was alone in flight."""
    lone_orphans: dict[str, int] = field(default_factory=dict)
    """Deaths of the supervisor per key while its row was alone in flight."""
    causes: dict[str, str] = field(default_factory=dict)
    """Cause of the last death per suspect."""

    @classmethod
    def begin(cls, path: UPath, run: str) -> "Journal":
        """Open the shard's journal or start one, and count an attempt; rows left in flight become suspects."""
        journal = cls(path=path, run=run)
        kept = read_journal(path)
        journal.attempts = 1 + (kept.attempts if kept.run == run else 0)
        journal.suspects = set(kept.suspects)
        journal.lone_deaths, journal.lone_orphans = kept.lone_deaths, kept.lone_orphans
        journal.causes = kept.causes
        journal._add_suspects(kept.in_flight, journal.lone_orphans, _ORPHANED)
        journal.write()
        return journal

    def note_loading(self) -> None:
        """Record that the network is being loaded, which may take minutes."""
        self.loading = True
        self.write()

    def note_in_flight(self, keys: Iterable[bytes], done: int) -> None:
        """Record the rows that are in flight now, and the number of rows that are done."""
        self.in_flight, self.done, self.loading = [key.hex() for key in keys], done, False
        self.write()

    def note_death(self, cause: str, crashed_or_hung: bool = False) -> None:
        """Record that the process of the rows in flight has ended.

        Args:
            cause: how it ended.
            crashed_or_hung: whether the process failed without outside cause, so that a lone suspect is to blame.
        """
        repeated = [key for key in self.in_flight if crashed_or_hung and key in self.suspects]
        self._add_suspects(self.in_flight, self.lone_deaths, cause)
        if len(self.in_flight) == len(repeated) == 1:
            self.lone_deaths[repeated[0]] = max(MAX_LONE_DEATHS, self.lone_deaths[repeated[0]])
        self.in_flight = []
        self.write()

    def is_suspect(self, key: bytes) -> bool:
        """Return whether the row must be sent alone."""
        return key.hex() in self.suspects

    def quarantine_cause(self, key: bytes) -> str | None:
        """Return the cause of a row's last death if it has died too often to be sent again, else None."""
        name = key.hex()
        deaths = self.lone_deaths.get(name, 0)
        if deaths >= MAX_LONE_DEATHS or self.lone_orphans.get(name, 0) >= MAX_LONE_ORPHANS:
            return self.causes.get(name, _ORPHANED)
        return None

    def write(self) -> None:
        """Write the file and rename it into place. There is no fsync: it need not survive a crash of the machine."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = JournalFile(
            run=self.run,
            done=self.done,
            attempts=self.attempts,
            loading=self.loading,
            in_flight=self.in_flight,
            suspects=sorted(self.suspects),
            lone_deaths=self.lone_deaths,
            lone_orphans=self.lone_orphans,
            causes=self.causes,
        ).model_dump_json()
        if is_local(self.path):
            beside = self.path.with_name(f".{self.path.name}.tmp")
            beside.write_text(content)
            beside.rename(self.path)
        else:
            self.path.write_text(content)

    def remove(self) -> None:
        """Remove the file, as the shard is finished."""
        self.path.unlink(missing_ok=True)

    def _add_suspects(self, keys: list[str], lone: dict[str, int], cause: str) -> None:
        if len(keys) == 1:
            lone[keys[0]] = lone.get(keys[0], 0) + 1
        self.suspects |= set(keys)
        self.causes |= dict.fromkeys(keys, cause)


def read_journal(path: UPath) -> JournalFile:
    """Return the content of a journal; the defaults where there is none, or where it is damaged, as by a power cut."""
    try:
        return JournalFile.model_validate_json(contents(path))
    except FileNotFoundError:
        return JournalFile()
    except ValueError:
        log.warning("%s is unreadable: a new journal is started", path)
        return JournalFile()


def journal_path(root: UPath, layer: str, shard: str) -> UPath:
    """Return the path of a shard's journal."""
    return root / "work" / layer / f"{shard}.json"
