"""Rehearses the whole chain on a CPU with random weights in the published sizes: does it run, and what does it need?

    python -m tests.benchmarks.rehearsal                    # make rehearsal
    python -m tests.benchmarks.rehearsal --scale small      # the same code on the tests' networks, in a minute

Two photographs are labelled by BLIP-2, Grounding DINO and SAM; their true labels are cached and trained on under the
paper's preset for two steps and, from the checkpoint, for a third; the model is exported and makes two pictures. Each
step runs in a process of its own. A step that this machine cannot hold is skipped with the reason, and a step that
fails does not stop those that do not need it. What is done is not done again: a second call does the rest.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.apart import Memory, call_apart
from tests.benchmarks.rehearsal_configs import differences
from tests.benchmarks.rehearsal_report import GB, GIB, HEADER, RESULT, TABLE, Report, Row, Status, rows_of
from tests.benchmarks.rehearsal_settings import IMAGE_PX, SAMPLING_STEPS, Rehearsal, Scale

Work = Callable[[str, Rehearsal], str]
"""Does the step of a name; returns what there is to say of it."""
PRELOAD = ["tests.benchmarks.rehearsal_steps"]
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """What a step must find free."""

    memory: float
    """GiB, measured and rounded up."""
    disk: float
    """GB."""


@dataclass(frozen=True)
class Step:
    """A step of the rehearsal; its work is the function of this name in `rehearsal_steps`."""

    name: str
    what: str
    after: tuple[str, ...]
    """Steps whose files it reads."""
    need: Need
    """At full scale."""
    temporary: str = ""
    """The folder under the rehearsal's that goes once all steps that read it are done."""


SMALL = Need(memory=2.0, disk=0.5)
STEPS = (
    Step("photographs", "compose, serve and download two photographs", (), Need(2, 0.1)),
    Step("labellers", "write BLIP-2, Grounding DINO and SAM", (), Need(11, 12), "labellers"),
    Step("captions", "captions (BLIP-2) and nouns (spaCy)", ("photographs", "labellers"), Need(10, 0.1)),
    Step("boxes", "boxes (Grounding DINO)", ("captions", "labellers"), Need(4, 0.1)),
    Step("masks", "masks (SAM), rules, ledger", ("boxes", "labellers"), Need(9, 0.1)),
    Step("networks", "write Stable Diffusion's base and the image encoder", (), Need(2, 9), "networks"),
    Step("cache", "cache of moments and features", ("photographs", "networks"), Need(10, 0.1)),
    Step("train", "two training steps and a checkpoint", ("photographs", "networks"), Need(16, 8), "training"),
    Step("resume", "a third step from the checkpoint", ("train",), Need(16, 8)),
    Step("train cached", "a training step from the cache", ("cache",), Need(16, 8), "training-cached"),
    Step("export", "export of the last checkpoint", ("resume",), Need(10, 9), "model"),
    Step("sample", "two pictures by the exported model", ("export",), Need(10, 0.1)),
)


def perform(step: str, rehearsal: Rehearsal) -> str:
    """Do a step; what it needs is imported where it runs."""
    from tests.benchmarks.rehearsal_steps import perform as do

    return do(step, rehearsal)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, which is 1 where a step failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    given = parser.parse_args(arguments)
    out = (given.out or Path("out/rehearsal") / given.scale).absolute()
    rehearsal = Rehearsal(
        scale=given.scale,
        out=out,
        image_px=given.image_px or IMAGE_PX[given.scale],
        sampling_steps=given.sampling_steps or SAMPLING_STEPS[given.scale],
        seed=given.seed,
    )
    if refusal := _cleared(out) if given.fresh else _other(rehearsal):
        parser.error(refusal)
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
    rows = rehearse(rehearsal, f"python -m tests.benchmarks.rehearsal {shlex.join(arguments)}".strip())
    print(f"\n{_text(rows)}\n\n{out / TABLE}\n{out / RESULT}", flush=True)
    return int(any(row.status is Status.FAILED for row in rows))


def rehearse(rehearsal: Rehearsal, command: str, work: Work = perform) -> list[Row]:
    """Do what is not done yet, each step by `work` in a process of its own; write the report after each."""
    different = differences(rehearsal)
    (rehearsal.out / "logs").mkdir(exist_ok=True)
    done = {row.name: row for row in rows_of(rehearsal.out)[1] if row.status is Status.DONE}
    rows: dict[str, Row] = {}
    for number, step in enumerate(STEPS, 1):
        head = f"[{number}/{len(STEPS)}] {step.what}"
        if step.name in done:
            rows[step.name] = done[step.name]
            print(f"{head}: done before", flush=True)
            continue
        rows[step.name] = _row(step, rehearsal, rows, head, work)
        _remove_what_is_read(rehearsal.out, rows)
        later = [done[one.name] for one in STEPS[number:] if one.name in done]
        Report(command, _identity(rehearsal), different, [*rows.values(), *later]).write(rehearsal.out)
    Report(command, _identity(rehearsal), different, list(rows.values())).write(rehearsal.out)
    return list(rows.values())


def _row(step: Step, rehearsal: Rehearsal, rows: Mapping[str, Row], head: str, work: Work) -> Row:
    if reason := _obstacle(step, rehearsal, rows):
        print(f"{head}: skipped, {reason}", flush=True)
        return Row(step.name, step.what, Status.SKIPPED, reason)
    print(f"{head} …", flush=True)

    def progress(seconds: float, memory: Memory) -> None:
        print(f"    {seconds:,.0f} s, {memory.resident / GIB:.1f} GiB  {_last_line(log)}", flush=True)

    log = rehearsal.out / "logs" / f"{step.name.replace(' ', '-')}.log"
    before = size_of(rehearsal.out)
    outcome = call_apart(work, (step.name, rehearsal), log, progress, PRELOAD)
    status = Status.FAILED if outcome.error else Status.DONE
    note = f"{outcome.error} (logs/{log.name})" if outcome.error else outcome.note
    row = Row(
        name=step.name,
        what=step.what,
        status=status,
        note=note,
        seconds=round(outcome.seconds, 1),
        cpu_seconds=outcome.cpu_seconds,
        peak_bytes=outcome.peak.resident,
        anonymous_bytes=outcome.peak.anonymous,
        disk_bytes=size_of(rehearsal.out) - before,
    )
    print(f"    {status}, {outcome.seconds:,.0f} s, {outcome.peak.resident / GIB:.1f} GiB  {note}", flush=True)
    return row


def _obstacle(step: Step, rehearsal: Rehearsal, rows: Mapping[str, Row]) -> str:
    """Why the step cannot run; empty where it can."""
    if missing := [name for name in step.after if rows[name].status is not Status.DONE]:
        return f"needs {missing[0]!r}, which was {rows[missing[0]].status}"
    need = need_of(step, rehearsal)
    if (memory := available_memory() / GIB) < need.memory:
        return f"needs {need.memory:.1f} GiB of memory, {memory:.1f} are available"
    if (disk := shutil.disk_usage(rehearsal.out).free / GB) < need.disk:
        return f"needs {need.disk:.1f} GB of disk, {disk:.1f} are free"
    return ""


def need_of(step: Step, rehearsal: Rehearsal) -> Need:
    """What the step must find free; activations of training grow with the image's area."""
    if rehearsal.scale is Scale.SMALL:
        return SMALL
    larger = (rehearsal.image_px / IMAGE_PX[Scale.FULL]) ** 2 - 1
    activations = ACTIVATIONS_GIB * larger if step.name in ("train", "resume", "train cached") else 0.0
    return Need(step.need.memory + activations, step.need.disk)


ACTIVATIONS_GIB = 0.5
"""Kept between forward and backward of an image of 256 px in float32."""


def available_memory() -> int:
    """Bytes that a program can take: of the machine, or of the control group that this process is in."""
    machine = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return machine
    if limit == "max":
        return machine
    return min(machine, int(limit) - int(used) + int(statistics.get("inactive_file", 0)))


def size_of(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _remove_what_is_read(out: Path, rows: Mapping[str, Row]) -> None:
    """Remove large folders that all steps have read; what a skipped or failed step reads stays for the next call."""
    done = {name for name, row in rows.items() if row.status is Status.DONE}
    for step in STEPS:
        if step.temporary and step.name in done and _readers(step) <= done:
            shutil.rmtree(out / step.temporary, ignore_errors=True)


def _readers(step: Step) -> set[str]:
    """Steps that read what `step` made, by way of others too: resuming and exporting load the base again."""
    direct = {other.name for other in STEPS if step.name in other.after}
    through = {"networks": {"resume", "train cached", "export"}, "train": {"export"}}
    return direct | through.get(step.name, set())


def _identity(rehearsal: Rehearsal) -> dict[str, Any]:
    """What another rehearsal in the same folder must have in common."""
    return {name: value for name, value in asdict(rehearsal).items() if name != "out"}


def _other(rehearsal: Rehearsal) -> str:
    """Why the folder cannot be gone on with; empty where it can."""
    settings, _ = rows_of(rehearsal.out)
    if settings and settings != _identity(rehearsal):
        return f"{rehearsal.out} holds a rehearsal of other settings ({settings}): add --fresh, or give another --out"
    return ""


def _cleared(out: Path) -> str:
    """Remove an earlier rehearsal; says why not where the folder holds something else."""
    if out.exists() and any(out.iterdir()) and not (out / RESULT).exists():
        return f"{out} holds no rehearsal, so --fresh does not remove it: give another --out"
    shutil.rmtree(out, ignore_errors=True)
    return ""


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:100] if lines else ""


def _text(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=Scale, choices=list(Scale), default=Scale.FULL)
    parser.add_argument("--out", type=Path, help="folder of everything that is made (default: out/rehearsal/SCALE)")
    parser.add_argument("--fresh", action="store_true", help="remove an earlier rehearsal first")
    parser.add_argument("--image-px", type=int, help="sides of training images and pictures (default: 256, small 32)")
    parser.add_argument("--sampling-steps", type=int, help="of the sampler (default: 4, small 2)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and photographs (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
