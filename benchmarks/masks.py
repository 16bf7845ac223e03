"""Benchmarks of the mask stages: threshold and packing against a plain read, memory, torch's pruning, a schedule."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import stages
from benchmarks.processes import MB, Resident, Watched, Worker, watch_command
from benchmarks.reads import read_by_preadv, read_by_sum
from benchmarks.report import Bar, Samples, Section, Table
from benchmarks.synthetic import QWEN_1_5B, Architecture, write_part, write_random
from ltpipe.checkpoints.layout import WEIGHTS
from ltpipe.checkpoints.prunable import Preset
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning import kernels
from ltpipe.pruning.build import write_mask
from ltpipe.pruning.histogram import KeyHistogram
from ltpipe.pruning.masks import read_mask
from ltpipe.pruning.scopes import SCOPES, groups
from ltpipe.pruning.scores import RankKeys
from ltpipe.pruning.thresholds import exact_cuts

_READS = 8.0
_STAGE_MEMORY = 300.0
_FASTER = 300.0

_SPARSITY = "0.5"
_SCHEDULE = tuple(f"0.{tenth}" for tenth in range(1, 10))
_CASES: tuple[tuple[Preset, str], ...] = (("linear", "global"), ("linear", "layer"), ("all-weights", "global"))


@dataclass(frozen=True)
class Scale:
    """How much to measure.

    Attributes:
        whole: the checkpoint.
        half: of it, for memory.
        part: of it, for the peer, which needs about 50 bytes a weight.
        wide: a checkpoint of 31-bit keys (float32).
        rounds: repetitions.
        peer_rounds: repetitions of the peer, which takes minutes where ltpipe takes seconds.
    """

    whole: Architecture
    half: Architecture
    part: Architecture
    wide: Architecture
    rounds: int
    peer_rounds: int


FULL = Scale(
    whole=QWEN_1_5B,
    half=Architecture(QWEN_1_5B.layers // 2, QWEN_1_5B.vocabulary // 2),
    part=Architecture(3, 1024),
    wide=Architecture(4, 1024),
    rounds=5,
    peer_rounds=3,
)
SMOKE = Scale(
    whole=Architecture(2, 2048),
    half=Architecture(1, 1024),
    part=Architecture(1, 1024),
    wide=Architecture(1, 1024),
    rounds=1,
    peer_rounds=1,
)


@dataclass(frozen=True)
class Folders:
    """The checkpoints of a `Scale`, written; `small` is for compiling kernels."""

    whole: Path
    half: Path
    part: Path
    wide: Path
    small: Path


def run(scale: Scale, scratch: Path, threads: int, say: Callable[[str], None]) -> Section:
    """Run all benchmarks of the mask stages."""
    kernels.use_threads(threads)
    say("masks: writing the synthetic checkpoints")
    folders = _write_checkpoints(scale, scratch)
    _compile_kernels(folders)
    say("masks: threshold and packing against plain reads")
    tables, bars = _against_plain_reads(scale, folders, scratch, threads)
    say("masks: one sparsity against a schedule")
    tables.append(_schedule(scale, folders))
    say("masks: memory of the stages")
    table, bar = _stage_memory(scale, folders, scratch, threads)
    tables.append(table)
    bars.append(bar)
    say("masks: torch.nn.utils.prune")
    table, bar = _against_torch(scale, folders, scratch, threads)
    weights = sum(np.prod(shape) for shape in scale.whole.shapes().values()) / 1e9
    intro = (
        f"A checkpoint of {weights:.2f} B bfloat16 weights with the shapes of Qwen2.5-1.5B (normal, deviation 0.02), "
        f"magnitude, sparsity {_SPARSITY}, {threads} threads for everything. The page cache is warm: every file was "
        "read before. Kernels were compiled before on a small checkpoint, no time contains compilation."
    )
    return Section("Masks", intro, [*tables, table], [*bars, bar])


def _write_checkpoints(scale: Scale, scratch: Path) -> Folders:
    folders = Folders(*(scratch / name for name in ("whole", "half", "part", "wide", "small")))
    write_random(folders.whole, scale.whole, "BF16")
    write_part(folders.half, scale.half, folders.whole)
    write_part(folders.part, scale.part, folders.whole)
    write_random(folders.wide, scale.wide, "F32")
    write_part(folders.small, Architecture(1, 1024), folders.whole)
    return folders


def _compile_kernels(folders: Folders) -> None:
    """Run everything that numba compiles, for both widths of key."""
    names = stages.prunable(folders.small, "linear")
    for folder in (folders.small, folders.wide):
        keys = stages.open_keys(folder, names) if folder == folders.small else _keys(folder)
        histogram = stages.count(keys)
        for scope in SCOPES:
            stages.pack_away(keys, histogram, scope, _SPARSITY)
    read_by_sum(TensorFile(folders.small / WEIGHTS), names)


def _keys(folder: Path, preset: Preset = "linear") -> RankKeys:
    return stages.open_keys(folder, stages.prunable(folder, preset))


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _in_turn(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Samples]:
    """Seconds of each contestant, all of them once a round, every other round backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            seconds[name].append(_timed(contestants[name]))
    return {name: Samples(tuple(values)) for name, values in seconds.items()}


def _against_plain_reads(
    scale: Scale, folders: Folders, scratch: Path, threads: int
) -> tuple[list[Table], list[Bar]]:
    tables, bars = [], []
    for preset, scope in _CASES:
        table, bar = _against_plain_read(preset, scope, scale, folders, scratch, threads)
        tables.append(table)
        bars.append(bar)
    return tables, bars


def _against_plain_read(
    preset: Preset, scope: str, scale: Scale, folders: Folders, scratch: Path, threads: int
) -> tuple[Table, Bar]:
    weights = folders.whole / WEIGHTS
    names = stages.prunable(folders.whole, preset)
    mapped = TensorFile(weights)
    size = read_by_sum(mapped, names)  # from here on every page is in the cache, and in this mapping's page table
    histogram = stages.count(stages.open_keys(folders.whole, names))
    plan = [groups(scope, _SPARSITY, histogram.sizes)]
    reads = {
        "plain read: preadv, 1 MiB buffers": lambda: read_by_preadv(weights, names, threads),
        "plain read: sum, file mapped anew": lambda: read_by_sum(TensorFile(weights), names),
        "plain read: sum, pages mapped before": lambda: read_by_sum(mapped, names),
    }
    steps = {
        "count": lambda: stages.count(stages.open_keys(folders.whole, names)),
        "threshold": lambda: exact_cuts(stages.open_keys(folders.whole, names), histogram, plan),
        "threshold + pack": lambda: _pack(folders.whole, names, histogram, scope),
        "threshold + pack + write + fsync": lambda: write_mask(
            scratch / "mask.safetensors", stages.open_keys(folders.whole, names), histogram, scope, _SPARSITY
        ),
    }
    seconds = _in_turn({**reads, **steps}, scale.rounds)
    fastest = min(reads, key=lambda name: seconds[name].median)
    seconds["**count + threshold + pack**"] = seconds["count"].plus(seconds["threshold + pack"])
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
                taken.over(seconds[fastest]).text(".2f"),
            )
            for name, taken in seconds.items()
        ],
        [
            f"The fastest plain read here is “{fastest.removeprefix('plain read: ')}”. ltpipe's steps map the file anew "
            "every time, as a stage does. The bar compares count + threshold + pack, every packed byte made and "
            "dropped; the last line also writes the mask file and flushes it to disk, which measures the disk too."
        ],
    )
    ratio = seconds["**count + threshold + pack**"].over(seconds[fastest])
    return table, Bar(f"threshold + pack ÷ plain read, {preset}, {scope}", ratio, _READS, at_most=True)


def _pack(folder: Path, names: tuple[str, ...], histogram: KeyHistogram, scope: str) -> int:
    return stages.pack_away(stages.open_keys(folder, names), histogram, scope, _SPARSITY)


def _schedule(scale: Scale, folders: Folders) -> Table:
    rows = []
    for keys in (_keys(folders.whole), _keys(folders.wide)):
        single = [(_SPARSITY, scope) for scope in ("global",)]
        whole = [(sparsity, scope) for scope in SCOPES for sparsity in _SCHEDULE]
        seconds = _in_turn(
            {"single": lambda keys=keys: _cut(keys, single), "whole": lambda keys=keys: _cut(keys, whole)},
            scale.rounds,
        )
        for label, plans, name in (("1 sparsity, global", single, "single"), ("9 sparsities, both scopes", whole, "whole")):
            counting, cutting = _passes(keys, plans)
            rows.append(
                (
                    f"{label}, {keys.bits}-bit keys, {sum(keys.sizes) / 1e9:.2f} B weights",
                    str(len(plans)),
                    f"{counting:.2f}",
                    f"{cutting:.2f}",
                    seconds[name].text(),
                    seconds[name].over(seconds["single"]).text(".2f"),
                )
            )
    return Table(
        "A schedule against one sparsity: count and thresholds",
        ("Plan", "Thresholds' plans", "Passes: count", "Passes: thresholds", "Seconds", "× one sparsity"),
        rows,
        [
            "A pass is one read of every prunable weight. bfloat16 (15-bit keys) needs none after counting; float32 "
            "(31-bit keys) needs one to resolve the boundaries of all plans together. Packing reads each weight once a "
            "mask; it is not in this table."
        ],
    )


def _cut(keys: RankKeys, plans: list[tuple[str, str]]) -> int:
    histogram = stages.count(keys)
    return len(exact_cuts(keys, histogram, [groups(scope, sparsity, keys.sizes) for sparsity, scope in plans]))


def _passes(keys: RankKeys, plans: list[tuple[str, str]]) -> tuple[float, float]:
    """How often counting, and finding the thresholds of all plans, read every weight."""
    counter = stages.ReadCounter()
    watched = counter.watching(keys)
    histogram = stages.count(watched)
    counting = counter.weights
    exact_cuts(watched, histogram, [groups(scope, sparsity, keys.sizes) for sparsity, scope in plans])
    return counting / histogram.total, (counter.weights - counting) / histogram.total


def _stage_memory(scale: Scale, folders: Folders, scratch: Path, threads: int) -> tuple[Table, Bar]:
    """Private memory of the real commands, on the whole checkpoint and on half of it."""
    bare = watch_command(["-c", "import time; time.sleep(1)"]).peak
    imports = watch_command(
        ["-c", "import ltpipe.pruning.build, ltpipe.runtime.stage, ltpipe.pruning.kernels, time; time.sleep(1)"]
    ).peak
    watched: dict[str, Watched] = {}
    for size, folder in (("whole", folders.whole), ("half", folders.half)):
        histogram = scratch / f"{size}-histogram.safetensors"
        count = ["scripts/count_keys.py", "--criterion", "magnitude", "--output", str(histogram)]
        mask = ["scripts/make_mask.py", "--histogram", str(histogram), "--sparsity", _SPARSITY]
        for preset in ("linear", "all-weights"):
            label = f"{size} checkpoint, preset {preset}"
            common = ["--checkpoint", str(folder), "--threads", str(threads)]
            watched[f"count_keys.py, {label}"] = watch_command([*count, *common, "--preset", preset])
            for scope in SCOPES:
                output = ["--scope", scope, "--output", str(scratch / "mask.safetensors")]
                watched[f"make_mask.py {scope}, {label}"] = watch_command([*mask, *common, *output])
    size = {"whole": (folders.whole / WEIGHTS).stat().st_size, "half": (folders.half / WEIGHTS).stat().st_size}

    def row(name: str, peak: Resident, seconds: str) -> tuple[str, ...]:
        above = (peak.anonymous - bare.anonymous) / MB
        return name, f"{peak.anonymous / MB:.0f}", f"{above:.0f}", f"{peak.mapped / MB:.0f}", seconds

    table = Table(
        "Memory of the stages as commands",
        ("Process", "Private, MB", "Above the interpreter, MB", "Mapped file pages, MB", "Seconds, start to exit"),
        [
            row("bare Python", bare, ""),
            row("Python with the stages' imports", imports, ""),
            *(row(name, taken.peak, f"{taken.seconds:.2f}") for name, taken in watched.items()),
        ],
        [
            f"Checkpoints of {size['whole'] / 1e9:.2f} and {size['half'] / 1e9:.2f} GB. Private memory is RssAnon, "
            "sampled 500 times a second, its largest value; pages of the mapped checkpoint are the page cache's, which "
            "the kernel takes back at will. Seconds include the start of Python."
        ],
    )
    worst = max(taken.peak.anonymous for taken in watched.values()) - bare.anonymous
    return table, Bar("memory of a mask stage above the interpreter, MB", Samples((worst / MB,)), _STAGE_MEMORY, True, ".0f")


@dataclass(frozen=True)
class _Pruned:
    """What one process of the pruning worker measured."""

    seconds: float
    kept: int
    extra_bytes: int


def _against_torch(scale: Scale, folders: Folders, scratch: Path, threads: int) -> tuple[Table, Bar]:
    total = sum(_keys(folders.part).sizes)
    masks = {method: scratch / f"{method}.safetensors" for method in ("peer", "ltpipe")}

    def worker(method: str) -> Worker:
        options = {"checkpoint": folders.part, "small": folders.small, "output": masks[method], "threads": threads}
        return Worker(
            "pruning_worker", "--method", method, *(word for key, value in options.items() for word in (f"--{key}", str(value)))
        )

    seconds: dict[str, list[float]] = {"peer": [], "ltpipe": [], "file": [], "masked": []}
    for _ in range(scale.peer_rounds):
        for method in masks:
            with worker(method) as process:
                process.ask_ready()
                seconds[method].append(process.ask(wish="prune")["seconds"])
                if method == "ltpipe":
                    extras = process.ask(wish="extras")
                    seconds["file"].append(extras["file"])
                    seconds["masked"].append(extras["masked"])
    extra, kept = {}, {}
    for method in masks:  # once more for memory, since sampling takes a little time away
        with worker(method) as process:
            process.ask_ready()
            before = process.memory().anonymous
            _, peak = process.ask_watched(wish="prune")
            extra[method] = peak.anonymous - before
            kept[method] = process.ask(wish="save")["kept"]
    return _torch_table(total, {name: Samples(tuple(values)) for name, values in seconds.items()}, extra, kept, _disagreement(folders.part, masks))
