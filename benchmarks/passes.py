"""Tickets of a model that does not stay in memory: one after the other, and in one pass."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import MB, Worker
from benchmarks.report import Bar, Samples, Section, Table
from benchmarks.synthetic import QWEN_1_5B, write_random
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram

_TICKETS = 8
_SEQUENCES = 8
_LENGTHS = (8, 128)
_BUDGET = 250.0  # MB for tensors
_LIMIT = 900.0  # MB for the process, PyTorch, transformers and compiled kernels included


def run(scratch: Path, threads: int, say: Callable[[str], None]) -> Section:
    """Evaluate tickets with a limit on memory; no evaluation finds weights in memory that another has read."""
    say("passes: writing the checkpoint and the masks")
    folder = scratch / "qwen"
    write_random(folder, QWEN_1_5B, "BF16")
    masks = _write_masks(folder, scratch)

    def evaluated(length: int, chosen: list[Path]) -> dict[str, float]:
        say(f"passes: {len(chosen)} of {_TICKETS} tickets, {length} tokens a sequence")
        options = {"checkpoint": folder, "masks": ",".join(map(str, chosen)), "sequences": _SEQUENCES, "length": length}
        return Worker("passes_worker", {**options, "budget": _BUDGET, "limit": _LIMIT, "threads": threads}).first

    rows, bars = [], []
    for length in _LENGTHS:
        alone, shared = [evaluated(length, [mask]) for mask in masks], evaluated(length, masks)
        found = {
            "one by one": {key: sum(one[key] for one in alone) for key in ("seconds", "read")},
            "in one pass": shared,
        }
        tokens = f"{_SEQUENCES} × {length}"
        rows += [(tokens, name, f"{one['read'] / MB:,.0f}", f"{one['seconds']:.1f}") for name, one in found.items()]
        same = [one["losses"] for one in alone] == [[losses] for losses in shared["losses"]]
        once = alone[0]["read"]
        bars += [
            Bar(f"{tokens}: reads of a pass ÷ reads of one ticket", Samples((shared["read"] / once,)), 2.0, True),
            Bar(
                f"{tokens}: seconds of a pass ÷ one by one",
                Samples((shared["seconds"] / found["one by one"]["seconds"],)),
                0.4,
                True,
            ),
            Bar(f"{tokens}: losses are bit-equal", Samples((float(same),)), 1.0, at_most=False, form=".0f"),
        ]
    return Section(
        "Tickets in one pass",
        f"{_TICKETS} magnitude tickets of random bfloat16 weights in the shapes of Qwen2.5-1.5B, on the CPU, with "
        f"{_LIMIT:.0f} MB of memory for the process. The kernel drops the checkpoint from its page cache before each "
        "evaluation, as if the model were larger than main memory.",
        [Table("Evaluations", ("Tokens", "Tickets", "Read from disk, MB", "Seconds"), rows)],
        bars,
    )


def _write_masks(folder: Path, scratch: Path) -> list[Path]:
    """Write a mask for each ticket. The checkpoint is not mapped afterwards, or its pages could not be dropped."""
    checkpoint = Checkpoint.open(folder)
    make_histogram(checkpoint, "magnitude", None, Selection()).write(scratch / "histogram")
    masks = [scratch / f"mask-{number}" for number in range(_TICKETS)]
    for number, mask in enumerate(masks, 1):
        make_mask(checkpoint, scratch / "histogram", "layer", str(number / 10), mask)
    return masks
