"""A study that works, and everything that the cases break of it."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from bad_input.running import call
from handmade import save_weights
from sealed import copied, rewritten
from studies import line, record
from tiny import save_tiny

from ltpipe.checkpoints.filenames import CONFIG, MANIFEST, TOKENIZER, WEIGHTS
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.runtime.sources import Source


@dataclass(frozen=True)
class Study:
    """Two tiny checkpoints, two texts and what the stages made of them."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def files(self) -> dict[str, int]:
        """Every file and when it was changed."""
        return {str(path): path.stat().st_mtime_ns for path in self.root.rglob("*") if path.is_file()}


def done(script: str, *arguments: object) -> None:
    ended = call(script, *arguments)
    assert ended.code == 0, ended.err


def make_study(root: Path, source_folder: Callable[[str], Path], canonical_folder: Callable[[str], Path]) -> Study:
    """`other` is of another architecture; `twin` has the same names and shapes as `llama`, and other bits."""
    study = Study(root)
    shutil.copytree(source_folder("llama"), study / "source")
    shutil.copytree(canonical_folder("llama"), study / "llama")
    shutil.copytree(canonical_folder("gpt2"), study / "other")
    load_checkpoint(Source(str(study / "source")), None, "bfloat16", study / "twin")
    for name, step in (("text", 1), ("poem", 7)):
        (study / f"{name}.txt").write_text(" ".join(f"w{number * step % 90}" for number in range(400)))
        arguments = ["--source", study / f"{name}.txt", "--tokenizer", study / "llama" / TOKENIZER]
        arguments += ["--sequence-length", 16, "--num-sequences", 4, "--output", study / f"{name}.sequences"]
        done("sequences", *arguments)
        arguments = ["--checkpoint", study / "llama", "--sequences", study / f"{name}.sequences"]
        done("evaluate", *arguments, "--data", name, "--output", study / f"{name}.baseline")
    for name in ("llama", "other", "twin"):
        arguments = ["--checkpoint", study / name]
        done("histogram", *arguments, "--criterion", "magnitude", "--output", study / f"{name}.histogram")
        arguments += ["--histogram", study / f"{name}.histogram", "--scope", "global", "--sparsity", "0.5"]
        done("mask", *arguments, "--output", study / f"{name}.mask")
        done("mask", *arguments, "--sparsity", "0.7", "--output", study / f"{name}.sparser")
    arguments = ["--checkpoint", study / "llama", "--histogram", study / "llama.histogram", "--sparsity", "0.4"]
    done("mask", *arguments, "--scope", "heads", "--output", study / "heads.mask")
    arguments = ["--checkpoint", study / "llama", "--sequences", study / "text.sequences", "--data", "text"]
    arguments += ["--mask", study / "llama.mask", "--baseline", study / "text.baseline"]
    done("evaluate", *arguments, "--output", study / "ticket")
    arguments = ["--baselines", study / "text.baseline", study / "poem.baseline", "--tickets", study / "ticket"]
    done("tables", *arguments, "--output", study / "tables")
    arguments = ["--baselines", study / "text.baseline", "--tables", study / "tables" / "tickets.parquet"]
    masks = ["--masks", study / "llama.mask", study / "llama.sparser"]
    done("overlap", *masks, "--output", study / "overlap", "--layers", study / "layers")
    done("validation", *masks, "--checkpoint", study / "llama", "--output", study / "validation")
    arguments += [study / "overlap", study / "validation"]
    done("report", *arguments, "--output", study / "report")
    done("print_table", "--report", study / "report")
    for name, made in (("record", record()), ("line", line(0, 0.01))):
        made.write(study / name)
    arguments = ["--records", study / "record", "--connectivities", study / "line"]
    done("report", *arguments, "--output", study / "trained")
    done("print_table", "--report", study / "trained")

    arguments = [
        "--checkpoint",
        study / "llama",
        "--criterion",
        "gradient-norm",
        "--sequences",
        study / "text.sequences",
    ]
    done("score", *arguments, "--output", study / "scores")
    train_something(study)
    damage(study)
    return study


def train_something(study: Study) -> None:
    """A task of forty images, and a point of a training by SGD."""
    rows = [",".join(str((7 * row + column) % 256) for column in range(9)) + f",{row % 2}" for row in range(40)]
    (study / "images.csv").write_text("\n".join(rows))
    options = {
        "model": "lenet-300-100",
        "source": str(study / "images.csv"),
        "validation": 8,
        "test": 8,
        "split_seed": 0,
    }
    done("task", "--task", "images", "--options", json.dumps(options), "--output", study / "task")
    arguments = ["--task", study / "task", "--device", "cpu", "--seed", 0, "--learning-rate", 0.1]
    arguments += ["--iterations", 4, "--batch-size", 4, "--evaluate-every", 2]
    for optimizer, more in (("sgd", ["--momentum", 0.9]), ("adam", [])):
        done("rewind_point", *arguments, "--optimizer", optimizer, *more, "--step", 2, "--output", study / optimizer)
    arguments += ["--optimizer", "sgd", "--momentum", 0.9, "--point", study / "sgd"]
    done("training", *arguments, "--output", study / "trained-state", "--record", study / "trained-record")


def damage(study: Study) -> None:
    """Everything that the cases below break, once for all of them: no case changes a file."""

    def weights_of(name: str, change: Callable[[dict[str, np.ndarray]], object]) -> None:
        shutil.copytree(study / "llama", study / name)
        tensors = safetensors.numpy.load_file(study / name / WEIGHTS)
        change(tensors)
        save_weights(study / name / WEIGHTS, tensors)

    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf)):
        weights_of(name, lambda t, value=value: t["model.layers.1.mlp.up_proj.weight"].__setitem__((3, 4), value))
    weights_of("lacking", lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    shutil.copytree(study / "llama", study / "truncated")
    os.truncate(study / "truncated" / WEIGHTS, (study / "truncated" / WEIGHTS).stat().st_size - 10)
    shutil.copytree(study / "llama", study / "mixed-up")
    shutil.copy(study / "other" / WEIGHTS, study / "mixed-up")
    shutil.copytree(study / "llama", study / "no-config")
    (study / "no-config" / CONFIG).unlink()
    shutil.copytree(study / "llama", study / "edited-manifest")
    manifest = study / "edited-manifest" / MANIFEST
    tensors = json.loads(manifest.read_text())["tensors"]
    tensors.pop("lm_head.weight")
    rewritten(manifest, tensors=tensors)
    save_tiny("llama", study / "one-shard-less", shard="10KB")
    (study / "one-shard-less" / "model-00003-of-00017.safetensors").unlink()
    shutil.copytree(study / "source", study / "one-tensor-less")
    shutil.copy(study / "lacking" / WEIGHTS, study / "one-tensor-less")

    whole = (study / "ticket").read_bytes()
    (study / "half-ticket").write_bytes(whole[: len(whole) // 2])
    (study / "empty").write_bytes(b"")
    (study / "list").write_text("[]")
    (study / "zeros").write_bytes(bytes(100))
    for name, change in {"no-loss": {"loss": None}, "text-loss": {"loss": "low"}, "old": {"format": 0}}.items():
        copied(study / "ticket", study / name, **change)
    copied(study / "ticket", study / "stranger", model="stranger")
    (study / "lines.jsonl").write_text("".join(json.dumps({"text": "w1 w2 w3 " * 9}) + "\n" for _ in range(30)))
    (study / "rows.jsonl").write_text('{"text": "w1"}\n{"text": 2}\n')
