"""A plan as text and as JSON."""

import math
from dataclasses import asdict

from labeling.plan.estimate import Plan
from labeling.plan.intervals import Interval

_HOUR_S = 3600
_GB = 1e9


def plan_text(plan: Plan, cpu_price: float | None, gpu_price: float | None) -> str:
    """Return the plan as a Markdown table, and the sentences that follow from it."""
    lines = [
        f"Plan for {plan.urls:,} URLs, from {plan.pilot_urls:,} URLs in {plan.pilot_shards} shards of {plan.pilot} on "
        f"{plan.host}. Ranges are 95 % intervals.",
        "",
        "| stage | images | workers | hours | CPU-hours | GPU-hours | GB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for stage in plan.stages:
        times = (_hours(value) for value in (stage.wall_s, stage.cpu_s, stage.gpu_s))
        images = f"{stage.images.value:,.0f}"
        lines.append(
            f"| {stage.stage} | {images} | {stage.workers} | {' | '.join(times)} | {_gigabytes(stage.storage)} |"
        )
    lines.append(f"| other | | | | {_number(plan.other_cpu_s / _HOUR_S)} | | |")
    totals = (_hours(value) for value in (plan.wall_s, plan.cpu_s, plan.gpu_s))
    lines.append(f"| in all | | | {' | '.join(totals)} | {_gigabytes(plan.storage)} |")
    lines += ["", *_sentences(plan, cpu_price, gpu_price)]
    return "\n".join(lines)


def plan_record(plan: Plan, cpu_price: float | None, gpu_price: float | None) -> dict[str, object]:
    """Return the plan for JSON; an interval that is not known is null."""
    record: dict[str, object] = asdict(plan)
    if cpu_price is not None or gpu_price is not None:
        record["cost"] = asdict(plan.cost(cpu_price or 0.0, gpu_price or 0.0))
    return {key: _finite(value) for key, value in record.items()}


def _sentences(plan: Plan, cpu_price: float | None, gpu_price: float | None) -> list[str]:
    slowest = next(stage for stage in plan.stages if stage.stage == plan.bottleneck)
    share = slowest.wall_s.value / (sum(stage.wall_s.value for stage in plan.stages) or 1.0)
    sentences = [
        f"Bottleneck: {plan.bottleneck}, {share:.0%} of the stages' time with {slowest.workers} "
        f"{'worker' if slowest.workers == 1 else 'workers'}."
    ]
    if cpu_price is not None or gpu_price is not None:
        cost = plan.cost(cpu_price or 0.0, gpu_price or 0.0)
        sentences.append(f"Cost at the prices given: {_range(cost)}.")
    sentences += [
        f"Not counted: {folder}, whose time grows with the square of the number of images."
        for folder in plan.not_counted
    ]
    if math.isinf(plan.cpu_s.half_width):
        sentences.append("The pilot has one shard, so the spread of the times is unknown: run one with more URLs.")
    return sentences


def _hours(interval: Interval) -> str:
    return _range(interval.times(1 / _HOUR_S))


def _gigabytes(interval: Interval) -> str:
    return _range(interval.times(1 / _GB))


def _range(interval: Interval) -> str:
    value, half_width = interval.value, interval.half_width
    if not value and not half_width:
        return "0"
    if math.isinf(half_width):
        return _number(value)
    return f"{_number(value)} ({_number(max(0.0, value - half_width))} to {_number(value + half_width)})"


def _number(value: float) -> str:
    """Return a number of at least two significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
