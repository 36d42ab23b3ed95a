"""What is on the network right now, on disk: how a row that kills its process is found.

Before a batch goes to the network its keys are written here. Whoever finds them after a death replays those rows
one by one; a row that is alone when its process dies again is quarantined. The journal also holds how far a shard
is, for whoever shows progress, and how often it was begun.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from upath import UPath

from infra.storage import contents, is_local

log = logging.getLogger(__name__)
LONE_DEATHS = 2
"""A row that is alone in its process when it dies this often is quarantined."""
LONE_ORPHANS = 3
"""The same where nobody saw the death, as the supervisor died as well: a power cut must not blame a row."""


@dataclass
class Journal:
    """The journal of one shard of one stage."""

    path: UPath
    run: str
    """The run that began it last."""
    done: int = 0
    """Rows with an outcome."""
    attempts: int = 0
    """How often this run began the shard."""
    loading: bool = False
    """Whether the network is being loaded."""
    in_flight: list[str] = field(default_factory=list)
    """Keys (hex) of the rows on the network."""
    suspects: set[str] = field(default_factory=set)
    """Keys that were on the network when a process died: to be run alone."""
    lone_deaths: dict[str, int] = field(default_factory=dict)
    lone_orphans: dict[str, int] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    """How the process of a suspect ended last."""

    @classmethod
    def begin(cls, path: UPath, run: str) -> "Journal":
        """The shard's journal, or a new one; counts an attempt, and what an earlier one left in flight is suspect."""
        journal = cls(path=path, run=run)
        if kept := read_journal(path):
            journal.attempts = kept["attempts"] if kept["run"] == run else 0
            journal.suspects = set(kept["suspects"])
            journal.lone_deaths, journal.lone_orphans = kept["lone_deaths"], kept["lone_orphans"]
            journal.causes = kept["causes"]
            journal._suspect(kept["in_flight"], journal.lone_orphans, "its supervisor died")
        journal.attempts += 1
        journal.write()
        return journal

    def loads(self) -> None:
        """The network is being loaded, which may take minutes."""
        self.loading = True
        self.write()

    def sent(self, keys: Iterable[bytes], done: int) -> None:
        """These rows are on the network now, and `done` rows have their outcome."""
        self.in_flight, self.done, self.loading = [key.hex() for key in keys], done, False
        self.write()

    def died(self, cause: str, by_itself: bool = False) -> None:
        """The process of the rows in flight has ended, for the reason `cause`.

        Args:
            by_itself: it crashed or hung, so a row that does this a second time is the cause if it was alone.
        """
        again = [key for key in self.in_flight if by_itself and key in self.suspects]
        self._suspect(self.in_flight, self.lone_deaths, cause)
        if len(self.in_flight) == len(again) == 1:
            self.lone_deaths[again[0]] = max(LONE_DEATHS, self.lone_deaths[again[0]])
        self.in_flight = []
        self.write()

    def is_suspect(self, key: bytes) -> bool:
        """Whether the row must run alone."""
        return key.hex() in self.suspects

    def quarantine(self, key: bytes) -> str | None:
        """How the row killed its process, where it did so too often."""
        name = key.hex()
        deaths = self.lone_deaths.get(name, 0)
        if deaths >= LONE_DEATHS or self.lone_orphans.get(name, 0) >= LONE_ORPHANS:
            return self.causes[name]
        return None

    def write(self) -> None:
        """Renamed into place but not fsynced: it must survive the process, not the machine."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {
                "run": self.run,
                "done": self.done,
                "attempts": self.attempts,
                "loading": self.loading,
                "in_flight": self.in_flight,
                "suspects": sorted(self.suspects),
                "lone_deaths": self.lone_deaths,
                "lone_orphans": self.lone_orphans,
                "causes": self.causes,
            }
        )
        if is_local(self.path):
            beside = self.path.with_name(f".{self.path.name}.tmp")
            beside.write_text(text)
            beside.rename(self.path)
        else:
            self.path.write_text(text)

    def remove(self) -> None:
        """The shard is finished."""
        self.path.unlink(missing_ok=True)

    def _suspect(self, keys: list[str], lone: dict[str, int], cause: str) -> None:
        if len(keys) == 1:
            lone[keys[0]] = lone.get(keys[0], 0) + 1
        self.suspects |= set(keys)
        self.causes |= dict.fromkeys(keys, cause)


def read_journal(path: UPath) -> dict[str, Any]:
    """What the journal says; nothing where there is none, or only the ruins that a power cut can leave of one."""
    try:
        kept: dict[str, Any] = json.loads(contents(path))
    except FileNotFoundError:
        return {}
    except ValueError:
        log.warning("%s is unreadable and is begun anew", path)
        return {}
    return kept


def journal_path(root: UPath, layer: str, shard: str) -> UPath:
    """Where the journal of a shard is while it is made."""
    return root / "work" / layer / f"{shard}.json"
