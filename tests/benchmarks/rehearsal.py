"""Rehearses the whole chain on a CPU with random weights in the published sizes, and measures what each step needs.

    python -m tests.benchmarks.rehearsal                    # make rehearsal
    python -m tests.benchmarks.rehearsal --scale small      # the same code on the tests' networks, in a minute

Two photographs are labelled by BLIP-2, Grounding DINO and SAM; their true labels are cached and trained on under the
paper's preset for two steps and, from the checkpoint, for a third; the model is exported and generates two images. Each
step runs in a process of its own. A step that needs more than this machine has is skipped with the reason, and a step
that fails stops only the steps that need it. A second call runs the steps that are not done.
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
from tests.benchmarks.rehearsal_report import GB, GIB, HEADER, RESULT, TABLE, Report, Row, Status, read_rows
from tests.benchmarks.rehearsal_settings import IMAGE_PX, SAMPLING_STEPS, Rehearsal, Scale

Work = Callable[[str, Rehearsal], str]
"""Runs the step of a name and returns a note on its result."""
PRELOAD = ["tests.benchmarks.rehearsal_steps"]
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Need:
    """Memory and disk that a step must find free."""

    memory: float
    """GiB of memory, measured and rounded up."""
    disk: float
    """GB of disk, measured and rounded up."""


@dataclass(frozen=True)
class Step:
    """A step of the rehearsal; its work is the function of this name in `rehearsal_steps`."""

    name: str
    title: str
    after: tuple[str, ...]
    """Names of the steps whose files it reads."""
    need: Need
    """Memory and disk at full scale."""
    temporary: str = ""
    """Folder that is removed once all steps that read it are done; empty keeps all."""


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
    """Run a step in this process, which imports the networks' libraries."""
    from tests.benchmarks.rehearsal_steps import run_step

    return run_step(step, rehearsal)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code, which is 1 if a step failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    out = (options.out or Path("out/rehearsal") / options.scale).absolute()
    rehearsal = Rehearsal(
        scale=options.scale,
        out=out,
        image_px=options.image_px or IMAGE_PX[options.scale],
        sampling_steps=options.sampling_steps or SAMPLING_STEPS[options.scale],
        seed=options.seed,
    )
    if refusal := _clear(out) if options.fresh else _mismatch(rehearsal):
        parser.error(refusal)
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
    rows = rehearse(rehearsal, f"python -m tests.benchmarks.rehearsal {shlex.join(arguments)}".strip())
    print(f"\n{_text(rows)}\n\n{out / TABLE}\n{out / RESULT}", flush=True)
    return int(any(row.status is Status.FAILED for row in rows))


def rehearse(rehearsal: Rehearsal, command: str, work: Work = perform) -> list[Row]:
    """Run the steps that are not done, each by `work` in a process of its own; write the report after each."""
    changed = differences(rehearsal)
    (rehearsal.out / "logs").mkdir(exist_ok=True)
    done = {row.name: row for row in read_rows(rehearsal.out)[1] if row.status is Status.DONE}
    rows: dict[str, Row] = {}
    for number, step in enumerate(STEPS, 1):
        head = f"[{number}/{len(STEPS)}] {step.title}"
        if step.name in done:
            rows[step.name] = done[step.name]
            print(f"{head}: done before", flush=True)
            continue
        rows[step.name] = _row(step, rehearsal, rows, head, work)
        _remove_unneeded_folders(rehearsal.out, rows)
        later = [done[one.name] for one in STEPS[number:] if one.name in done]
        Report(command, _identity(rehearsal), changed, [*rows.values(), *later]).write(rehearsal.out)
    Report(command, _identity(rehearsal), changed, list(rows.values())).write(rehearsal.out)
    return list(rows.values())


def _row(step: Step, rehearsal: Rehearsal, rows: Mapping[str, Row], head: str, work: Work) -> Row:
    if reason := _obstacle(step, rehearsal, rows):
        print(f"{head}: skipped, {reason}", flush=True)
        return Row(step.name, step.title, Status.SKIPPED, reason)
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
        title=step.title,
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
    """Return the reason for which the step cannot run; empty if it can."""
    if missing := [name for name in step.after if rows[name].status is not Status.DONE]:
        return f"needs {missing[0]!r}, which was {rows[missing[0]].status}"
    need = need_of(step, rehearsal)
    if (memory := available_memory() / GIB) < need.memory:
        return f"needs {need.memory:.1f} GiB of memory, {memory:.1f} are available"
    if (disk := shutil.disk_usage(rehearsal.out).free / GB) < need.disk:
        return f"needs {need.disk:.1f} GB of disk, {disk:.1f} are free"
    return ""


def need_of(step: Step, rehearsal: Rehearsal) -> Need:
    """Return memory and disk that the step must find free; activations of training grow with the image's area."""
    if rehearsal.scale is Scale.SMALL:
        return SMALL
    larger = (rehearsal.image_px / IMAGE_PX[Scale.FULL]) ** 2 - 1
    activations = ACTIVATIONS_GIB * larger if step.name in ("train", "resume", "train cached") else 0.0
    return Need(step.need.memory + activations, step.need.disk)


ACTIVATIONS_GIB = 0.5
"""GiB of activations that training keeps for one image of 256 px in float32."""


def available_memory() -> int:
    """Return the bytes of memory available on the machine, or in the control group of this process if that is less."""
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
    """Return the bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _remove_unneeded_folders(out: Path, rows: Mapping[str, Row]) -> None:
    """Remove large folders whose readers are all done; a skipped or failed reader keeps its folders."""
    done = {name for name, row in rows.items() if row.status is Status.DONE}
    for step in STEPS:
        if step.temporary and step.name in done and _readers(step) <= done:
            shutil.rmtree(out / step.temporary, ignore_errors=True)


def _readers(step: Step) -> set[str]:
    """Return the steps that read the files of `step`, also indirectly: resuming and exporting load the base again."""
    direct = {other.name for other in STEPS if step.name in other.after}
    through = {"networks": {"resume", "train cached", "export"}, "train": {"export"}}
    return direct | through.get(step.name, set())


def _identity(rehearsal: Rehearsal) -> dict[str, Any]:
    """Return the settings that a folder's rehearsals must have in common."""
    return {name: value for name, value in asdict(rehearsal).items() if name != "out"}


def _mismatch(rehearsal: Rehearsal) -> str:
    """Return the reason for which the folder's rehearsal cannot be continued; empty if it can."""
    settings, _ = read_rows(rehearsal.out)
    if settings and settings != _identity(rehearsal):
        return f"{rehearsal.out} holds a rehearsal of other settings ({settings}): add --fresh, or give another --out"
    return ""


def _clear(out: Path) -> str:
    """Remove an earlier rehearsal; return the reason if the folder holds something else."""
    if out.exists() and any(out.iterdir()) and not (out / RESULT).exists():
        return f"{out} is not the folder of a rehearsal, so --fresh does not remove it: give another --out"
    shutil.rmtree(out, ignore_errors=True)
    return ""


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:100] if lines else ""


def _text(rows: Sequence[Row]) -> str:
    """Return the table for a terminal."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=Scale, choices=list(Scale), default=Scale.FULL)
    parser.add_argument("--out", type=Path, help="folder of all files (default: out/rehearsal/SCALE)")
    parser.add_argument("--fresh", action="store_true", help="remove an earlier rehearsal first")
    parser.add_argument("--image-px", type=int, help="sides of training images and pictures (default: 256, small 32)")
    parser.add_argument("--sampling-steps", type=int, help="steps of the sampler (default: 4, small 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and photographs (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
