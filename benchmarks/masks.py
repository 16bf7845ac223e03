"""Benchmarks of the mask stages."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from benchmarks.mask_memory import stage_memory
from benchmarks.mask_peer import against_torch
from benchmarks.mask_speed import SPARSITY, against_plain_read, compile_kernels, schedule
from benchmarks.report import Section
from benchmarks.synthetic import QWEN_1_5B, Architecture, write_part, write_random
from ltpipe.checkpoints.prunable import Preset
from ltpipe.pruning import kernels

_CASES: tuple[tuple[Preset, str], ...] = (("linear", "global"), ("linear", "layer"), ("all-weights", "global"))


@dataclass(frozen=True)
class Scale:
    """How much to measure.

    Attributes:
        whole: the full checkpoint.
        half: half of it, for memory, which should not depend on size.
        part: part of it, for the peer, which needs about 50 bytes per weight.
        wide: a float32 checkpoint, with 31-bit keys.
        rounds: repetitions.
        peer_rounds: repetitions of the peer, which takes minutes where ltpipe takes a second.
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
    part=Architecture(9, 1024),
    wide=Architecture(4, 1024),
    rounds=5,
    peer_rounds=3,
)
_TINY = Architecture(1, 1024)
SMOKE = Scale(whole=Architecture(2, 2048), half=_TINY, part=_TINY, wide=_TINY, rounds=1, peer_rounds=1)


def run(scale: Scale, scratch: Path, threads: int, say: Callable[[str], None]) -> Section:
    """Run all benchmarks of the mask stages."""
    kernels.use_threads(threads)
    say("masks: writing the synthetic checkpoints")
    whole, half, part, wide, small = (scratch / name for name in ("whole", "half", "part", "wide", "small"))
    write_random(whole, scale.whole, "BF16")
    write_part(half, scale.half, whole)
    write_part(part, scale.part, whole)
    write_part(small, _TINY, whole)
    write_random(wide, scale.wide, "F32")
    compile_kernels(small, wide)
    results = []
    for preset, scope in _CASES:
        say(f"masks: threshold and packing against plain reads, {preset}, {scope}")
        results.append(against_plain_read(whole, preset, scope, scratch, threads, scale.rounds))
    say("masks: a schedule against one sparsity")
    passes = schedule([whole, wide], scale.rounds)
    say("masks: memory of the stages")
    results.append(stage_memory({"whole": whole, "half": half}, scratch, threads))
    say("masks: torch.nn.utils.prune")
    results.append(against_torch(part, small, scratch, threads, scale.peer_rounds))
    parameters = sum(prod(shape) for shape in scale.whole.shapes().values())
    intro = (
        f"The checkpoint has {parameters / 1e9:.2f} B bfloat16 parameters with the shapes of Qwen2.5-1.5B (normal, "
        f"deviation 0.02). The masks use magnitude at sparsity {SPARSITY}, and every contestant has {threads} threads. "
        "The page cache is warm: every file was read before. Kernels were compiled before, on small checkpoints, so no "
        "time includes compilation.\n\n"
        "In the comparison with plain reads, ltpipe maps the file anew in every step, as a stage does, and the "
        "reference is the fastest of three ways to read the prunable bytes once. The bar applies to count + threshold "
        "+ pack, with every packed byte created and then dropped. The last line of each table also writes the mask "
        "and flushes it to disk, which measures the disk too."
    )
    tables = [table for table, _ in results]
    return Section("Masks", intro, [*tables[:3], passes, *tables[3:]], [bar for _, bar in results])
