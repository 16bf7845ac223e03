"""Run the benchmarks, print their tables and write them to a file; exit with 1 if a bar is missed."""

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import tyro

from benchmarks import api, evaluation, limit, masks, passes, recovery, solvers, study, training
from benchmarks.report import Section, render
from ltpipe.runtime.threads import available_threads


def main(
    only: Literal[
        "masks", "evaluation", "api", "limit", "passes", "study", "training", "recovery", "solvers", "all"
    ] = "all",
    output: Path | None = None,
    scratch: Path | None = None,
    threads: int = 0,
    checkpoint: Path = Path("results/checkpoints/smollm2-135m"),
    sequences: Path = Path("results/sequences/smollm2-135m/speeches.safetensors"),
    sweep: bool = False,
    smoke: bool = False,
) -> None:
    """Run the benchmarks, print their tables and write them to a file; exit with 1 if a bar is missed.

    Args:
        only: benchmark to run.
        output: Markdown file to write.
        scratch: folder for temporary files, about 6 GB; a new folder inside it is used and removed.
        threads: CPU threads of every contestant; 0 uses all.
        checkpoint: canonical folder of SmolLM2-135M; loaded into the scratch folder if it does not exist.
        sequences: 16 sequences of 256 tokens; made in the scratch folder if they do not exist or differ.
        sweep: also try many sizes of micro-batches and chunks, which takes minutes more.
        smoke: run everything once at toy size, without checking the bars.
    """
    load = os.getloadavg()[0]
    threads = available_threads(threads)
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` runs
    folder = Path(tempfile.mkdtemp(prefix="ltpipe-bench-", dir=scratch))
    sections: list[Section] = []
    try:
        if only in ("masks", "all"):
            scale = masks.SMOKE if smoke else masks.FULL
            sections.append(masks.run(scale, folder / "masks", threads, _say))
            _write(output, render(command, threads, load, sections))  # kept if the rest is interrupted
            shutil.rmtree(folder / "masks")
        if only in ("evaluation", "all"):
            amount = evaluation.SMOKE if smoke else evaluation.FULL
            sections.append(evaluation.run(amount, checkpoint, sequences, folder / "evaluation", threads, sweep, _say))
        if only in ("api", "all"):
            calls = api.SMOKE if smoke else api.FULL
            sections.append(api.run(calls, checkpoint, sequences, folder / "api", threads, _say))
        if only in ("limit", "all") and not smoke:
            sections.append(limit.run(folder, threads, _say))
        if only in ("passes", "all") and not smoke:
            sections.append(passes.run(folder / "passes", threads, _say))
        if only in ("study", "all"):
            sections.append(study.run(folder / "study", _say, smoke=smoke))
        if only in ("training", "all"):
            sections.append(training.run(training.SMOKE if smoke else training.FULL, _say))
        if only in ("recovery", "all"):
            steps = recovery.SMOKE if smoke else recovery.FULL
            sections.append(recovery.run(steps, checkpoint, sequences, folder / "recovery", threads, _say))
        if only in ("solvers", "all"):
            solved = solvers.SMOKE if smoke else solvers.FULL
            sections.append(solvers.run(solved, checkpoint, folder / "solvers", threads, _say))
    finally:
        shutil.rmtree(folder)
    text = render(command, threads, load, sections)
    print(text)
    _write(output, text)
    missed = [bar for section in sections for bar in section.bars if not bar.holds]
    sys.exit(1 if missed and not smoke else 0)


def _write(output: Path | None, text: str) -> None:
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")


def _say(message: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))
