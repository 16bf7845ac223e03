"""A whole study through the pipeline against a plain loop in one process, in processor seconds."""

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.report import Bar, Samples, Section, Table

_PR_SET_CHILD_SUBREAPER = 36
_AT_MOST = 3.0
_COUNT, _LENGTH = 8, 64
_SCOPES = ("layer", "global")


@dataclass(frozen=True)
class Amount:
    """Sparsities of each of two scopes, and rounds."""

    sparsities: int
    rounds: int


FULL = Amount(sparsities=10, rounds=3)
SMOKE = Amount(sparsities=1, rounds=1)


def run(amount: Amount, scratch: Path, say: Callable[[str], None]) -> Section:
    """Time a study of tickets of a tiny Llama: 2 blocks, 8 sequences of 64 tokens, one core."""
    sparsities = [round((number + 1) / (amount.sparsities + 1), 3) for number in range(amount.sparsities)]
    tickets = len(_SCOPES) * len(sparsities)
    say(f"study: {tickets} tickets of a tiny Llama through the pipeline, and in a loop")
    scratch.mkdir(parents=True)
    _write_inputs(scratch)
    pipeline, loop = [], []
    for turn in range(amount.rounds):
        folder = scratch / f"study-{turn}"
        folder.mkdir()
        config = {
            "models": {"tiny": {"source": "../model"}},
            "data": {"words": {"source": "../words.txt"}},
            "grid": {"criteria": ["magnitude"], "scopes": list(_SCOPES), "sparsities": sparsities},
            "evaluate": {"sequence_length": _LENGTH, "num_sequences": _COUNT, "top_k": 0},
            "threads": 1,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        own = [sys.executable, "-m", "ltpipe.cli", "run", "config.yaml", "--cores", "1"]
        contestants = [
            lambda folder=folder, own=own: pipeline.append(processor_seconds(own, folder)),
            lambda: loop.append(processor_seconds(_loop(scratch, sparsities), Path.cwd())),
        ]
        for contestant in contestants[:: -1 if turn % 2 else 1]:
            contestant()
    ratio = Samples(tuple(pipeline)).over(Samples(tuple(loop)))
    return Section(
        f"A study of {tickets} tiny tickets",
        "Processor seconds of all processes. The loop is `benchmarks/study_worker.py`: the same model, tokens and "
        "sparsities, but no files, intervals or report.",
        (
            Table(
                "Processor seconds",
                ("", "median (min–max)"),
                (("pipeline", Samples(tuple(pipeline)).text(".1f")), ("loop", Samples(tuple(loop)).text(".1f"))),
            ),
        ),
        (Bar("pipeline ÷ loop", ratio, _AT_MOST, True),),
    )


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


def _loop(scratch: Path, sparsities: Sequence[float]) -> list[str]:
    return [
        *(sys.executable, "-m", "benchmarks.study_worker"),
        *("--model", str(scratch / "model"), "--text", str(scratch / "words.txt")),
        *("--count", str(_COUNT), "--length", str(_LENGTH), "--scopes", *_SCOPES),
        *("--sparsities", *map(str, sparsities)),
    ]


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
