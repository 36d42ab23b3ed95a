"""How far a dataset folder is, and what became of its URLs, as text."""

from infra.storage import place
from labeling.record import runs_of
from labeling.sdd.query import funnel
from labeling.sdd.schema import State
from labeling.sdd.shards import ShardStore

LAYERS = ("urls", "images", "captions", "nouns", "detections", "entities", "ledger")


def progress_table(root: str) -> str:
    """Markdown: finished shards and images by state of each layer, counted from the files."""
    store = ShardStore(root)
    planned = len(store.shards("urls"))
    lines = ["| layer | shards | " + " | ".join(s.value.replace("_", " ") for s in State) + " |"]
    lines.append("|---|--:|" + "--:|" * len(State))
    for layer in LAYERS:
        shards = store.shards(layer)
        counts = dict.fromkeys(State, 0)
        for shard in shards:
            stamp = store.stamp(layer, shard)
            for state, n in stamp.counts.items() if stamp else ():
                counts[State(state)] += n
        cells = " | ".join(f"{counts[state]:,}" if counts[state] else "" for state in State)
        lines.append(f"| {layer} | {len(shards)} of {planned} | {cells} |")
    return "\n".join(lines)


def funnel_text(root: str) -> str:
    """What became of each input URL, a line per reason; says so where no shard is finished."""
    rows = funnel(root)
    if not rows:
        return "No shard is finished yet: the ledger is written last."
    total = sum(urls for *_, urls, _ in rows)
    width = max(len(reason) for _, _, reason, *_ in rows)
    lines = [f"{'URLs':>9}  {'share':>6}  {'state':<14} {'stage':<11} reason"]
    for state, stage, reason, urls, share in rows:
        lines.append(f"{urls:>9,}  {share:>6.1%}  {state.replace('_', ' '):<14} {stage:<11} {reason:<{width}}".rstrip())
    return "\n".join([*lines, f"{total:>9,}  100.0%  in all"])


def runs_table(root: str, last: int = 5) -> str:
    """Markdown: the last runs, each with its state and when it last wrote its record."""
    lines = ["| run | state | began | until | host |", "|---|---|---|---|---|"]
    for run in runs_of(place(root))[-last:]:
        lines.append(f"| {' | '.join(str(run.get(key, '')) for key in ('name', 'state', 'began', 'until', 'host'))} |")
    return "\n".join(lines)
