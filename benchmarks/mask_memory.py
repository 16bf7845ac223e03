"""Private memory of the mask stages, run with the workflow's own commands."""

from pathlib import Path

from benchmarks import stages
from benchmarks.mask_speed import SPARSITY
from benchmarks.processes import MB, Watched, watch_command
from benchmarks.report import Bar, Samples, Table
from ltpipe.checkpoints.filenames import WEIGHTS

_LIMIT = 300.0
_IMPORTS = "import ltpipe.pruning.build, ltpipe.runtime.stage"


def stage_memory(checkpoints: dict[str, Path], scratch: Path, threads: int) -> tuple[Table, Bar]:
    """Count keys and make masks on each checkpoint while sampling memory from outside."""
    bare = watch_command(["-c", "import time; time.sleep(1)"])
    references = {
        "bare Python": bare,
        "Python with the stages' imports": watch_command(["-c", f"{_IMPORTS}, time; time.sleep(1)"]),
    }
    stages = {
        f"{stage}: {label}": taken
        for label, folder in checkpoints.items()
        for stage, taken in _watch_stages(folder, scratch, threads).items()
    }
    sizes = ", ".join(
        f"{label} {(folder / WEIGHTS).stat().st_size / 1e9:.2f} GB" for label, folder in checkpoints.items()
    )
    table = Table(
        "Memory of the stages as commands",
        ("Process", "Private, MB", "Above bare Python, MB", "Mapped file pages, MB", "Seconds from start to exit"),
        [
            (
                name,
                f"{taken.peak.anonymous / MB:.0f}",
                f"{(taken.peak.anonymous - bare.peak.anonymous) / MB:.0f}",
                f"{taken.peak.mapped / MB:.0f}",
                "" if name in references else f"{taken.seconds:.2f}",
            )
            for name, taken in (references | stages).items()
        ],
        [
            f"Checkpoints: {sizes}. Private memory is the largest RssAnon, sampled 500 times per second. Pages of "
            "the mapped checkpoint belong to the page cache, which the kernel reclaims when it needs room. Seconds "
            "include Python's start."
        ],
    )
    worst = max(taken.peak.anonymous for taken in stages.values()) - bare.peak.anonymous
    what = "private memory of a mask stage above bare Python, MB, worst of all"
    return table, Bar(what, Samples((worst / MB,)), _LIMIT, at_most=True, form=".0f")


def _watch_stages(folder: Path, scratch: Path, threads: int) -> dict[str, Watched]:
    watched = {}
    common = ["--checkpoint", str(folder), "--threads", str(threads)]
    for preset in ("linear", "all-weights"):
        histogram = str(scratch / f"histogram-{preset}.safetensors")
        count = ["scripts/histogram.py", *common, "--criterion", "magnitude", "--preset", preset]
        watched[f"histogram, {preset}"] = watch_command([*count, "--output", histogram])
        for scope in stages.SCOPES:
            mask = ["scripts/mask.py", *common, "--histogram", histogram, "--scope", scope]
            output = ["--sparsity", SPARSITY, "--output", str(scratch / "mask.safetensors")]
            watched[f"mask, {preset}, {scope}"] = watch_command([*mask, *output])
    return watched
