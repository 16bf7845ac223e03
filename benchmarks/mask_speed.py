"""Threshold and packing against a plain read of the same bytes, and a schedule against one sparsity."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import stages
from benchmarks.reads import read_by_preadv, read_by_sum
from benchmarks.report import Bar, Table, in_turn
from ltpipe.checkpoints.filenames import WEIGHTS
from ltpipe.checkpoints.prunable import Preset
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.histogram import KeyHistogram
from ltpipe.pruning.scopes import groups
from ltpipe.pruning.scores import RankKeys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.pruning.thresholds import exact_cuts

SPARSITY = "0.5"
SCHEDULE = tuple(f"0.{tenth}" for tenth in range(1, 10))

_LIMIT = 5.0

Plan = Sequence[tuple[str, str]]
"""Scope and sparsity of each mask."""


def compile_kernels(*folders: Path) -> None:
    """Compile all numba kernels by running them on small checkpoints of every dtype measured later."""
    for folder in folders:
        names = stages.prunable(folder, "linear")
        histogram = stages.count(stages.open_keys(folder, names))
        for scope in stages.SCOPES:
            _pack(folder, names, histogram, scope)
        read_by_sum(TensorFile(folder / WEIGHTS), names)


def against_plain_read(
    folder: Path, preset: Preset, scope: str, scratch: Path, threads: int, rounds: int
) -> tuple[Table, Bar]:
    """Time counting, thresholding and packing one mask, and three ways of reading the same bytes."""
    weights = folder / WEIGHTS
    names = stages.prunable(folder, preset)
    mapped = TensorFile(weights)
    size = read_by_sum(mapped, names)  # from now on every page is in the cache and in this mapping's page table
    histogram = stages.count(stages.open_keys(folder, names))
    plan = [groups(scope, Sparsity.of(SPARSITY), histogram.sizes)]
    mask = scratch / "mask.safetensors"
    reads = {
        "plain read: preadv, 1 MiB buffers": lambda: read_by_preadv(weights, names, threads),
        "plain read: sum, file mapped anew": lambda: read_by_sum(TensorFile(weights), names),
        "plain read: sum, pages mapped before": lambda: read_by_sum(mapped, names),
    }
    steps = {
        "count": lambda: stages.count(stages.open_keys(folder, names)),
        "threshold": lambda: exact_cuts(stages.open_keys(folder, names), histogram, plan),
        "threshold + pack": lambda: _pack(folder, names, histogram, scope),
        "threshold + pack + write + fsync": lambda: stages.write_mask(
            mask, stages.open_keys(folder, names), histogram, scope, SPARSITY
        ),
    }
    seconds = in_turn(reads | steps, rounds)
    fastest = min((seconds[name] for name in reads), key=lambda taken: taken.median)
    all_steps = seconds["count"].plus(seconds["threshold + pack"])
    seconds["**count + threshold + pack**"] = all_steps
    seconds["count + threshold + pack + write + fsync"] = seconds["count"].plus(
        seconds["threshold + pack + write + fsync"]
    )
    table = Table(
        f"Preset {preset}, scope {scope}: {histogram.total / 1e9:.2f} B weights, {size / 1e9:.2f} GB",
        ("Step", "Seconds: median (min–max)", "GB/s", "ns a weight", "× fastest plain read"),
        [
            (
                name,
                taken.text(),
                f"{size / 1e9 / taken.median:.1f}",
                f"{taken.median / histogram.total * 1e9:.3f}",
                taken.over(fastest).text(".2f"),
            )
            for name, taken in seconds.items()
        ],
    )
    name = f"count + threshold + pack ÷ plain read, {preset}, {scope}"
    return table, Bar(name, all_steps.over(fastest), _LIMIT, True)


def schedule(folders: Sequence[Path], rounds: int) -> Table:
    """Time counting and finding thresholds for one sparsity and for a whole schedule."""
    plans = {
        "1 sparsity, global": [("global", SPARSITY)],
        "9 sparsities, global and layer": [(scope, sparsity) for scope in stages.SCOPES for sparsity in SCHEDULE],
    }
    rows = []
    for folder in folders:
        names = stages.prunable(folder, "linear")
        seconds = in_turn({name: _Cutting(folder, names, plan) for name, plan in plans.items()}, rounds)
        single, *_ = seconds.values()
        for name, plan in plans.items():
            keys = stages.open_keys(folder, names)
            counting, cutting = _passes(keys, plan)
            what = f"{name}; {keys.bits}-bit keys, {sum(keys.sizes) / 1e9:.2f} B weights"
            taken = (seconds[name].text(), seconds[name].over(single).text(".2f"))
            rows.append((what, str(len(plan)), f"{counting:.2f}", f"{cutting:.2f}", *taken))
    return Table(
        "Count and thresholds of a schedule against one sparsity",
        ("Plan", "Masks", "Passes: count", "Passes: thresholds", "Seconds: median (min–max)", "× one sparsity"),
        rows,
        [
            "A pass is one read of every prunable weight. bfloat16 (15-bit keys) needs none after counting. float32 "
            "(31-bit keys) needs one, to resolve the boundaries of all plans together. Packing reads every weight once "
            "for each mask and is not in this table."
        ],
    )


class _Cutting:
    """A callable that counts keys and finds all thresholds of a plan."""

    def __init__(self, folder: Path, names: tuple[str, ...], plan: Plan) -> None:
        self._folder, self._names, self._plan = folder, names, plan

    def __call__(self) -> None:
        keys = stages.open_keys(self._folder, self._names)
        _cut(keys, stages.count(keys), self._plan)


def _cut(keys: RankKeys, histogram: KeyHistogram, plan: Plan) -> None:
    exact_cuts(keys, histogram, [groups(scope, Sparsity.of(sparsity), keys.sizes) for scope, sparsity in plan])


def _passes(keys: RankKeys, plan: Plan) -> tuple[float, float]:
    """Return how many times counting, and then finding all thresholds, reads the weights."""
    counter = stages.ReadCounter()
    watched = counter.watching(keys)
    histogram = stages.count(watched)
    counting = counter.weights
    _cut(watched, histogram, plan)
    return counting / histogram.total, (counter.weights - counting) / histogram.total


def _pack(folder: Path, names: tuple[str, ...], histogram: KeyHistogram, scope: str) -> None:
    stages.pack_away(stages.open_keys(folder, names), histogram, scope, SPARSITY)
