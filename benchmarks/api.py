"""Benchmarks of the Python API: a quality call against a plain forward pass of the same tokens and model."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.evaluation import checkpoint_of, sequences_of
from benchmarks.processes import Worker
from benchmarks.report import Bar, Samples, Section, Table

FULL = 7
SMOKE = 1
"""Rounds."""

_LIMIT = 1.5
_CALLS = {
    "plain": "transformers, `model(input_ids=ids, labels=ids)`",
    "masked": "`with ltpipe.masked(model, mask)`, nothing inside",
    "given": "**`compute_lottery_ticket_quality(…, baseline_performance=…)`**",
    "compared": "`compute_lottery_ticket_quality(…)`: two evaluations",
}


def run(
    rounds: int, checkpoint: Path, sequences: Path, scratch: Path, threads: int, say: Callable[[str], None]
) -> Section:
    """Time the calls in turn, in one process."""
    say("api")
    checkpoint = checkpoint_of(checkpoint, scratch)
    options = {"checkpoint": checkpoint, "sequences": sequences_of(sequences, checkpoint, scratch), "threads": threads}
    seconds: dict[str, list[float]] = {call: [] for call in _CALLS}
    with Worker("api_worker", options) as worker:
        for call in _CALLS:
            worker.ask(call=call)  # compiles and warms up
        for turn in range(rounds):
            for call in list(_CALLS)[:: -1 if turn % 2 else 1]:
                seconds[call].append(worker.ask(call=call)["seconds"])
        masked, tokens = worker.first["masked"], worker.first["tokens"]
    taken = {call: Samples(tuple(values)) for call, values in seconds.items()}
    table = Table(
        f"Calls on {tokens} tokens, float32",
        ("Call", "Seconds: median (min–max)", "÷ plain forward"),
        [
            (name, taken[call].text(".2f"), taken[call].over(taken["plain"]).text(".2f"))
            for call, name in _CALLS.items()
        ],
    )
    bars = [
        Bar("quality call, baseline given ÷ plain forward", taken["given"].over(taken["plain"]), _LIMIT, True),
        Bar(
            "quality call without a baseline ÷ two plain forwards",
            taken["compared"].over(taken["plain"].scaled(2)),
            _LIMIT,
            True,
        ),
    ]
    intro = (
        f"SmolLM2-135M in float32, {threads} threads, a mask of half of {masked / 1e6:.1f} M weights of the blocks. "
        "All calls in one process, in turn."
    )
    return Section("Python API", intro, [table], bars)
