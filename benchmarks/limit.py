"""Evaluation of a 3 GB model by a process limited to a fraction of that memory."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import MB, Worker
from benchmarks.report import Bar, Samples, Section, Table
from benchmarks.synthetic import QWEN_1_5B, write_random

_LENGTH = 128
_SEQUENCES = 8
_BUDGET = 150.0  # MB for tensors
_LIMIT = 600.0  # MB for the process, PyTorch and transformers included


def run(scratch: Path, threads: int, say: Callable[[str], None]) -> Section:
    """Evaluate with and without a limit, at the same batch sizes."""
    say("limit: writing the checkpoint")
    folder = scratch / "qwen"
    manifest = write_random(folder, QWEN_1_5B, "BF16")
    weights = 2 * manifest.parameters
    found = {}
    for name, limit in (("none", 0.0), (f"{_LIMIT:.0f} MB", _LIMIT)):
        say(f"limit: {name}")
        options = {"checkpoint": folder, "sequences": _SEQUENCES, "length": _LENGTH, "threads": threads}
        found[name] = Worker("limit_worker", {**options, "budget": _BUDGET, "limit": limit}).first
    free, limited = found.values()
    table = Table(
        f"Evaluation of {weights / MB:,.0f} MB of bfloat16 weights, {_SEQUENCES} × {_LENGTH} tokens",
        ("Limit", "Batch sizes", "Tensors planned, MB", "Growth, MB", "Private peak, MB", "Seconds", "Loss"),
        [
            (
                name,
                one["sizes"],
                f"{one['planned'] / MB:.0f}",
                f"{one['grown'] / MB:.0f}",
                f"{one['peak'] / MB:.0f}",
                f"{one['seconds']:.1f}",
                f"{one['loss']:.7f}",
            )
            for name, one in found.items()
        ],
        [
            "The limit is RLIMIT_DATA: all private memory that a process may request, whether it uses it or not. "
            "Pages of the mapped checkpoint do not count towards it; the kernel drops them when it needs room. Token "
            "losses are " + ("the same, bit for bit." if free["digest"] == limited["digest"] else "**not the same**.")
        ],
    )
    same = Samples((float(free["digest"] == limited["digest"]),))
    return Section(
        "Memory limit",
        "Random weights in the shapes of Qwen2.5-1.5B, random tokens, on the CPU.",
        [table],
        [
            Bar("weights ÷ memory limit of the process", Samples((weights / MB / _LIMIT,)), 5.0, at_most=False),
            Bar("token losses are bit-equal under the limit", same, 1.0, at_most=False, form=".0f"),
        ],
    )
