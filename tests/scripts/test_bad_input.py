"""The stages' command lines: bad input ends them with one line, status 1, and no output; wrong usage with status 2.

Importing torch and transformers takes seconds, so that most cases run in this process, through the same
`stage.run(main)` as the scripts themselves; a few are real processes.
"""

import contextlib
import importlib.util
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import safetensors.numpy
from handmade import rewritten, save_weights
from studies import line, record
from tiny import save_tiny

from ltpipe.checkpoints.layout import CONFIG, MANIFEST, TOKENIZER, WEIGHTS
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime import stage
from ltpipe.runtime.sources import Source

SCRIPTS = {path.stem: path for path in sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))}


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    code: int
    out: str
    err: str


@cache
def main_of(script: str) -> Callable[..., None]:
    spec = importlib.util.spec_from_file_location(f"script_{script}", SCRIPTS[script])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations are looked up
    spec.loader.exec_module(module)
    return module.main


@contextlib.contextmanager
def fresh_logging() -> Iterator[None]:
    """Logging as a new process has it: `stage.run` then sends its messages to standard error."""
    root = logging.getLogger()
    handlers, level, strict = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = strict


def call(script: str | Callable[..., None], *arguments: object) -> Ended:
    """Run a script, or a `main` of a test's own, as `python scripts/<script>.py <arguments>` would."""
    main = main_of(script) if isinstance(script, str) else script
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, fresh_logging():
        patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        patch.delenv("LTPIPE_LOG", raising=False)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                stage.run(main)
            except SystemExit as exit_:
                code = exit_.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def processes(commands: list[list[object]]) -> list[Ended]:
    """Run real processes side by side."""
    environment = {name: value for name, value in os.environ.items() if name != "LTPIPE_LOG"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    started = [subprocess.Popen([sys.executable, *map(str, command)], **pipes) for command in commands]
    ended = [process.communicate() for process in started]
    return [Ended(process.returncode, *texts) for process, texts in zip(started, ended, strict=True)]


# --- a study that works


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


@pytest.fixture(scope="module")
def study(tmp_path_factory, source_folder, canonical_folder) -> Study:
    """`other` is of another architecture; `twin` has the same names and shapes as `llama`, and other bits."""
    study = Study(tmp_path_factory.mktemp("study"))
    shutil.copytree(source_folder("llama"), study / "source")
    shutil.copytree(canonical_folder("llama"), study / "llama")
    shutil.copytree(canonical_folder("gpt2"), study / "other")
    load_checkpoint(Source(str(study / "source")), None, "bfloat16", study / "twin")
    for name, step in (("text", 1), ("poem", 7)):
        (study / f"{name}.txt").write_text(" ".join(f"w{number * step % 90}" for number in range(400)))
        arguments = ["--source", study / f"{name}.txt", "--tokenizer", study / "llama" / TOKENIZER]
        arguments += ["--sequence-length", 16, "--num-sequences", 4, "--output", study / f"{name}.sequences"]
        done("prepare_data", *arguments)
        arguments = ["--checkpoint", study / "llama", "--sequences", study / f"{name}.sequences"]
        done("evaluate", *arguments, "--data", name, "--output", study / f"{name}.baseline")
    for name in ("llama", "other", "twin"):
        arguments = ["--checkpoint", study / name]
        done("count_keys", *arguments, "--criterion", "magnitude", "--output", study / f"{name}.histogram")
        arguments += ["--histogram", study / f"{name}.histogram", "--scope", "global", "--sparsity", "0.5"]
        done("make_mask", *arguments, "--output", study / f"{name}.mask")
        done("make_mask", *arguments, "--sparsity", "0.7", "--output", study / f"{name}.sparser")
    arguments = ["--checkpoint", study / "llama", "--histogram", study / "llama.histogram", "--sparsity", "0.4"]
    done("make_mask", *arguments, "--scope", "heads", "--output", study / "heads.mask")
    arguments = ["--checkpoint", study / "llama", "--sequences", study / "text.sequences", "--data", "text"]
    arguments += ["--mask", study / "llama.mask", "--baseline", study / "text.baseline"]
    done("evaluate", *arguments, "--output", study / "ticket")
    arguments = ["--baselines", study / "text.baseline", study / "poem.baseline", "--tickets", study / "ticket"]
    masks = ["--masks", study / "llama.mask", study / "llama.sparser"]
    done("compare_masks", *masks, "--output", study / "overlap", "--layers", study / "layers")
    done("validate_masks", *masks, "--manifest", study / "llama" / MANIFEST, "--output", study / "validation")
    arguments += ["--overlaps", study / "overlap", "--validations", study / "validation"]
    done("make_report", *arguments, "--output", study / "report")
    done("print_table", "--tickets", study / "report" / "tickets.csv")
    for name, made in (("record", record()), ("line", line(0, 0.01))):
        made.write(study / name)
    arguments = ["--baselines", "--tickets", "--records", study / "record", "--connectivities", study / "line"]
    done("make_report", *arguments, "--output", study / "trained")
    tables = {f"--{name}": study / "trained" / f"{name}.csv" for name in ("tickets", "levels", "findings")}
    done("print_table", *(part for pair in tables.items() for part in pair))

    damage(study)
    return study


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
        rewritten(Path(shutil.copy(study / "ticket", study / name)), **change)
    rewritten(Path(shutil.copy(study / "ticket", study / "stranger")), model="stranger")
    (study / "rows.jsonl").write_text('{"text": "w1"}\n{"text": 2}\n')


@dataclass(frozen=True)
class Case:
    """A script, its arguments (`@name` is a path in the study), the words that its line has to hold."""

    script: str
    arguments: str
    words: tuple[str, ...]


COUNT = "--checkpoint @llama --criterion magnitude"
MASK = "--checkpoint @llama --histogram @llama.histogram --scope global --sparsity 0.5"
DENSE = "--checkpoint @llama --sequences @text.sequences"
TICKET = f"{DENSE} --mask @llama.mask --baseline @text.baseline"
DATA = "--source @text.txt --tokenizer @llama/tokenizer.json --sequence-length 16"
SMALLER = "--checkpoint @llama --mask @llama.mask"
REPORT = "--baselines @text.baseline --tickets @ticket"
VALIDATE = "--masks @llama.mask --manifest @llama/manifest.json --config @llama/config.json"


def on(arguments: str, **changes: str) -> str:
    """Arguments with some of them changed: the last of two equal flags wins."""
    return " ".join([arguments, *(f"--{flag.replace('_', '-')}={value}" for flag, value in changes.items())])


TRUNCATED = ("@truncated/model.safetensors: ", "truncated")
NO_NUMBER = ("infinite or not a number",)
CASES = {
    # damaged checkpoints
    "count-truncated": Case("count_keys", on(COUNT, checkpoint="@truncated"), TRUNCATED),
    "mask-truncated": Case("make_mask", on(MASK, checkpoint="@truncated"), TRUNCATED),
    "evaluate-truncated": Case("evaluate", on(DENSE, checkpoint="@truncated"), TRUNCATED),
    **{
        f"{what}-{name}": Case(script, on(arguments, checkpoint=f"@{name}"), words)
        for name, words in {
            "mixed-up": ("@mixed-up/model.safetensors: holds no tensor",),
            "lacking": ("@lacking/model.safetensors: holds no tensor 'model.layers.1.mlp.up_proj.weight'",),
            "edited-manifest": ("@edited-manifest/manifest.json: ", "fingerprint"),
            "absent": ("@absent/manifest.json: no such file",),
            "text.txt": ("@text.txt/manifest.json: ",),
        }.items()
        for what, script, arguments in (
            ("count", "count_keys", COUNT),
            ("count-random", "count_keys", on(COUNT, criterion="random", seed="0")),
            ("mask", "make_mask", MASK),
            ("evaluate", "evaluate", DENSE),
        )
    },
    "evaluate-no-config": Case("evaluate", on(DENSE, checkpoint="@no-config"), ("@no-config/config.json: no such",)),
    **{
        f"{what}-{name}": Case(script, on(arguments, checkpoint=f"@{name}"), words)
        for name in ("nan", "inf", "minus-inf")
        for what, script, arguments, words in (
            ("count", "count_keys", COUNT, ("'model.layers.1.mlp.up_proj.weight' holds 1 weights", *NO_NUMBER)),
            ("mask", "make_mask", MASK, ("'model.layers.1.mlp.up_proj.weight' changed", "histogram stage again")),
            ("evaluate", "evaluate", DENSE, ("token losses are", *NO_NUMBER, "float32")),
        )
    },
    # things that do not belong together
    "histogram-of-another": Case("make_mask", on(MASK, histogram="@other.histogram"), ("@other.histogram: ", "@llama")),
    "histogram-of-twin": Case("make_mask", on(MASK, histogram="@twin.histogram"), ("@twin.histogram: ", "@llama")),
    "mask-of-another": Case("evaluate", on(TICKET, mask="@other.mask"), ("@other.mask: mask of another model",)),
    "mask-of-twin": Case("evaluate", on(TICKET, mask="@twin.mask"), ("@twin.mask: mask of another model",)),
    "baseline-of-other-text": Case(
        "evaluate", on(TICKET, baseline="@poem.baseline"), ("@poem.baseline: baseline of other sequences",)
    ),
    "baseline-of-twin": Case("evaluate", on(TICKET, checkpoint="@twin", mask="@twin.mask"), ("of other checkpoint",)),
    "baseline-is-a-ticket": Case("evaluate", on(TICKET, baseline="@ticket"), ("@ticket: metrics of a ticket", "dense")),
    "no-baseline": Case("evaluate", on(DENSE, mask="@llama.mask"), ("--baseline", "--mask")),
    "ticket-without-baseline": Case("make_report", "--baselines @text.baseline --tickets @stranger", ("'stranger'",)),
    "ticket-is-dense": Case("make_report", on(REPORT, tickets="@text.baseline"), ("tickets: ",)),
    "masks-of-two-models": Case("compare_masks", "--layers @no --masks @llama.mask @twin.sparser", ("another model",)),
    "mask-twice": Case("compare_masks", "--layers @no --masks @llama.mask @llama.mask", ("give each mask once",)),
    "compare-a-histogram": Case("compare_masks", "--layers @no --masks @llama.histogram", ("not a mask",)),
    "validate-a-histogram": Case("validate_masks", VALIDATE.replace(".mask", ".histogram"), ("not a mask",)),
    "validate-without-manifest": Case("validate_masks", on(VALIDATE, manifest="@absent"), ("@absent: no such file",)),
    "early-bird-of-two-models": Case("detect_early_bird", "--masks @llama.mask @other.mask", ("different weights",)),
    "early-bird-window": Case("detect_early_bird", "--masks @llama.mask --window 1", ("window: 1", "2 or more")),
    "report-of-no-overlap": Case("make_report", on(REPORT, overlaps="@ticket"), ("@ticket: not an overlap table",)),
    "report-of-no-validation": Case("make_report", on(REPORT, validations="@absent"), ("@absent: no such file",)),
    "no-tickets": Case("make_report", "--baselines @text.baseline --tickets", ("tickets: ",)),
    "no-tickets-beside-trainings": Case(
        "make_report", "--baselines @text.baseline --tickets --records @record", ("tickets: ",)
    ),
    "nothing-to-report": Case("make_report", "--baselines --tickets", ("tickets: ",)),
    "record-twice": Case("make_report", on(REPORT, records="@record @record"), ("'lenet', replicate 0", "each once")),
    "no-record": Case("make_report", on(REPORT, records="@absent"), ("@absent: no such file",)),
    "record-is-a-ticket": Case("make_report", on(REPORT, records="@ticket"), ("@ticket: not a learning record",)),
    "record-is-half": Case("make_report", on(REPORT, records="@half-ticket"), ("@half-ticket: not valid JSON",)),
    "line-is-a-record": Case("make_report", on(REPORT, connectivities="@record"), ("@record: not a linear conn",)),
    "bird-is-a-line": Case("make_report", on(REPORT, early_birds="@line"), ("@line: not an early-bird",)),
    "levels-are-tickets": Case(
        "print_table",
        "--tickets @trained/tickets.csv --levels @trained/tickets.csv --findings @trained/findings.csv",
        ("@trained/tickets.csv: not a levels table",),
    ),
    "options-are-no-json": Case("prepare_task", "--task images --options {x", ("options: '{x' is no mapping",)),
    "options-are-a-list": Case("prepare_task", "--task images --options [3]", ("options: '[3]' is no mapping",)),
    # files of another kind
    "sequences-are-a-mask": Case("evaluate", on(DENSE, sequences="@llama.mask"), ("@llama.mask: not ", "sequences")),
    "mask-is-a-histogram": Case("evaluate", on(TICKET, mask="@llama.histogram"), ("@llama.histogram: not a mask",)),
    "histogram-is-a-mask": Case("make_mask", on(MASK, histogram="@llama.mask"), ("@llama.mask: not a", "histogram")),
    "histogram-is-weights": Case("make_mask", on(MASK, histogram="@llama/model.safetensors"), ("not a", "histogram")),
    "histogram-is-text": Case("make_mask", on(MASK, histogram="@text.txt"), ("@text.txt: not a safetensors file",)),
    "histogram-is-empty": Case("make_mask", on(MASK, histogram="@empty"), ("@empty: ", "too short")),
    "tokenizer-is-a-config": Case("prepare_data", on(DATA, tokenizer="@llama/config.json"), ("@llama/config.json: ",)),
    "table-is-metrics": Case("print_table", "--tickets @ticket", ("@ticket: not a tickets table",)),
    "table-is-weights": Case("print_table", "--tickets @llama/model.safetensors", ("not a tickets table",)),
    "table-is-empty": Case("print_table", "--tickets @empty", ("@empty: not a tickets table",)),
    # damaged metrics, wherever metrics are read
    **{
        f"{what}-{name}": Case(script, on(arguments, **{flag: f"@{name}"}), (f"@{name}: ", words))
        for name, words in {
            "half-ticket": "not valid JSON",
            "empty": "not valid JSON",
            "zeros": "not valid JSON",
            "list": "expected an object",
            "no-loss": "loss",
            "text-loss": "loss",
            "old": "format",
            "llama/model.safetensors": "not valid JSON",
        }.items()
        for what, script, arguments, flag in (
            ("ticket", "make_report", REPORT, "tickets"),
            ("report", "make_report", REPORT, "baselines"),
            ("evaluate", "evaluate", TICKET, "baseline"),
        )
    },
    # files that are not there
    "no-histogram": Case("make_mask", on(MASK, histogram="@absent"), ("@absent: no such file",)),
    "no-sequences": Case("evaluate", on(DENSE, sequences="@absent"), ("@absent: no such file",)),
    "no-mask": Case("evaluate", on(TICKET, mask="@absent"), ("@absent: no such file",)),
    "no-baseline-file": Case("evaluate", on(TICKET, baseline="@absent"), ("@absent: no such file",)),
    "no-text": Case("prepare_data", on(DATA, source="@absent", name="mine"), ("data.mine.source: '@absent' does not",)),
    "no-tokenizer": Case("prepare_data", on(DATA, tokenizer="@absent"), ("@absent: ",)),
    "no-model": Case("load_model", "--source @absent --name mine", ("models.mine.source: '@absent' does not exist",)),
    "no-tokenizer-source": Case("load_model", "--source @source --tokenizer @absent", ("models.model.tokenizer: ",)),
    "no-metrics": Case("make_report", on(REPORT, tickets="@absent"), ("@absent: no such file",)),
    "no-table": Case("print_table", "--tickets @absent", ("@absent: no such file",)),
    "table-is-a-folder": Case("print_table", "--tickets @llama", ("@llama: ",)),
    "metrics-are-a-folder": Case("make_report", on(REPORT, tickets="@llama"), ("@llama: ",)),
    "output-below-a-file": Case("count_keys", on(COUNT, output="@text.txt/out"), ("@text.txt",)),
    "output-is-a-folder": Case("count_keys", on(COUNT, output="@llama"), ("@llama: is a folder",)),
    # values out of range
    "scope": Case("make_mask", on(MASK, scope="rows"), ("scope 'rows'", "global, layer")),
    "units": Case(
        "make_mask",
        on(MASK, checkpoint="@other", histogram="@other.histogram", scope="heads"),
        ("scope 'heads'", "GPT2LMHeadModel", "LlamaForCausalLM"),
    ),
    "units-of-no-config": Case("make_mask", on(MASK, checkpoint="@no-config", scope="heads"), ("@no-config/config",)),
    "units-nan": Case("make_mask", on(MASK, checkpoint="@nan", scope="channels"), ("up_proj.weight", "changed since")),
    "smaller-global": Case("export_smaller", SMALLER, ("@llama.mask: a mask of scope 'global'", "heads, channels")),
    "smaller-of-another": Case("export_smaller", on(SMALLER, mask="@other.mask"), ("@other.mask: mask of another",)),
    "smaller-truncated": Case("export_smaller", on(SMALLER, mask="@heads.mask", checkpoint="@truncated"), TRUNCATED),
    "smaller-output-there": Case(
        "export_smaller", on(SMALLER, mask="@heads.mask", output="@report"), ("@report: is there already", "empty")
    ),
    "criterion": Case("count_keys", on(COUNT, criterion="beauty"), ("criterion 'beauty'", "magnitude, random")),
    "no-seed": Case("count_keys", on(COUNT, criterion="random"), ("seed",)),
    **{
        f"sparsity-{value}": Case("make_mask", on(MASK, sparsity=value), (f"sparsity {shown}", "0 to 1"))
        for value, shown in {"1.5": "1.5", "-0.1": "-0.1", "1e400": "1e400"}.items()
    },
    **{
        f"sparsity-{value}": Case("make_mask", on(MASK, sparsity=value), (f"sparsity '{value}'", "0 to 1"))
        for value in ("abc", "nan", "inf", "1/0", "50%", "")
    },
    **{
        f"device-{value}": Case("evaluate", on(DENSE, device=value), (f"device: '{value}'", "allowed", "auto", "cpu"))
        for value in ("mps", "tpu", "cuda:x", "meta", "")
    },
    "include": Case("count_keys", on(COUNT, include="*.attn.*"), ("prunable.include: '*.attn.*'",)),
    "exclude": Case("count_keys", on(COUNT, exclude="*"), ("prunable: no weight",)),
    "threads-count": Case("count_keys", on(COUNT, threads="-1"), ("threads: -1",)),
    "threads-mask": Case("make_mask", on(MASK, threads="-1"), ("threads: -1",)),
    "threads-evaluate": Case("evaluate", on(DENSE, threads="-1"), ("threads: -1",)),
    "micro-batch": Case("evaluate", on(DENSE, micro_batch="-1"), ("micro_batch: -1",)),
    "no-length": Case("prepare_data", on(DATA, sequence_length="0", name="mine"), ("data.mine: ", "0 tokens")),
    "too-long": Case("prepare_data", on(DATA, sequence_length="401", name="mine"), ("data.mine: ", "400", "401")),
    "too-many": Case("prepare_data", on(DATA, num_sequences="26", name="mine"), ("data.mine: ", "25", "26")),
    "none-wanted": Case("prepare_data", on(DATA, num_sequences="0"), ("data.text: 0 sequences",)),
    "pattern": Case("prepare_data", on(DATA, source="@report", files="*.txt"), ("'*.txt'", "@report")),
    "no-text-at-all": Case("prepare_data", on(DATA, source="@empty"), ("'@empty' is no text", ".txt")),
    "bad-line": Case("prepare_data", on(DATA, source="@rows.jsonl"), ("@rows.jsonl: line 2", "'text' is int")),
    # sources that cannot be loaded; all of them are in tests/checkpoints/test_load.py
    "missing-shard": Case("load_model", "--source @one-shard-less", ("'@one-shard-less' lacks the shard model-00003",)),
    "missing-tensor": Case("load_model", "--source @one-tensor-less", ("missing keys model.layers.1.mlp.up_proj",)),
    "text-as-model": Case("load_model", "--source @text.txt", ("'@text.txt' is no model", ".gguf")),
}  # fmt: skip


def expand(text: str, study: Study) -> str:
    return text.replace("@", f"{study.root}/")


def one_line(ended: Ended) -> str:
    """The line that a user is to see: alone of its kind, and no traceback around it."""
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.err
    assert "Traceback" not in ended.err + ended.out
    return lines[0].removeprefix("error: ")


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, study, tmp_path):
    case, before = CASES[name], study.files()
    arguments = expand(case.arguments, study).split()
    if case.script != "print_table" and "--output" not in case.arguments:
        arguments += ["--output", str(tmp_path / "out")]
    ended = call(case.script, *arguments)
    assert ended.code == 1, ended.err
    message = one_line(ended)
    assert [word for word in case.words if expand(word, study) not in message] == [], message
    assert ended.out == ""
    # transformers has its own say about a checkpoint; nothing else is on the terminal
    assert case.script == "load_model" or ended.err.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert study.files() == before


@pytest.mark.parametrize("device", ["cuda:99", "xpu:99"])
def test_absent_device(device, study, tmp_path):
    arguments = expand(on(DENSE, device=device, output=str(tmp_path / "out")), study).split()
    ended = call("evaluate", *arguments)
    assert ended.code == 1
    assert one_line(ended).startswith(f"device: '{device}' is not on this machine; allowed here are auto, cpu")
    assert list(tmp_path.iterdir()) == []


def test_analyses_of_masks_need_no_torch(study, tmp_path):
    compare = f"--masks {study.root}/llama.mask {study.root}/llama.sparser --layers {tmp_path}/layers".split()
    compare = ["-c", WATCH, SCRIPTS["compare_masks"], *compare, "--output", tmp_path / "overlap"]
    checked = expand(VALIDATE, study).split()
    checked = ["-c", WATCH, SCRIPTS["validate_masks"], *checked, "--output", tmp_path / "validation"]
    for ended in processes([compare, checked]):
        assert (ended.code, ended.out) == (0, "pandas\n"), ended
    assert (tmp_path / "overlap").read_bytes() == (study / "overlap").read_bytes()


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("evaluate", on(DENSE, frobnicate="1"), ("--frobnicate",)),
        ("evaluate", on(DENSE, precision="int8"), ("--precision", "bfloat16")),
        ("evaluate", on(DENSE, execution="quick"), ("--execution", "streamed")),
        ("evaluate", on(DENSE, threads="many"), ("--threads",)),
        ("evaluate", "--checkpoint @llama", ("--sequences", "required")),
        ("count_keys", on(COUNT, preset="some"), ("--preset", "all-weights")),
        ("count_keys", on(COUNT, seed="x"), ("--seed",)),
        ("make_mask", "--checkpoint @llama", ("--histogram", "--sparsity")),
        ("load_model", "--source @source --dtype int8", ("--dtype", "bfloat16")),
        ("prepare_data", on(DATA, num_sequences="many"), ("--num-sequences", "all")),
        ("prepare_data", on(DATA, documents="best"), ("--documents", "calibration")),
        ("make_report", "--tickets @ticket", ("--baselines",)),
        ("print_table", "@ticket", ("--tickets",)),
    ],
)
def test_wrong_usage(script, arguments, words, study, tmp_path):
    before = study.files()
    output = [] if script == "print_table" else ["--output", str(tmp_path / "out")]
    ended = call(script, *expand(arguments, study).split(), *output)
    assert ended.code == 2, ended.err
    assert [word for word in words if word not in ended.err] == [], ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []
    assert study.files() == before


def test_internal_error_keeps_its_traceback():
    def broken(*, number: int = 1) -> None:
        raise RuntimeError(f"bug {number}")

    ended = call(broken, "--number", 3)
    assert ended.code == 70
    assert "Traceback" in ended.err
    assert "RuntimeError: bug 3" in ended.err
    assert "error: " not in [line[:7] for line in ended.err.splitlines()]


def test_help_of_every_script():
    """In real processes: the scripts start as files, and name all that they take."""
    helped = processes([[path, "--help"] for path in SCRIPTS.values()])
    for script, ended in zip(SCRIPTS, helped, strict=True):
        assert (ended.code, ended.err) == (0, ""), script
        assert main_of(script).__doc__.splitlines()[0] in " ".join(ended.out.split()), script
        assert [flag for flag in flags_of(main_of(script)) if flag not in ended.out] == [], script


def flags_of(main):
    """What a function takes on the command line: a dataclass gives its fields."""
    hints = {name: kind for name, kind in get_type_hints(main).items() if name != "return"}
    names = [
        field
        for name, kind in hints.items()
        for field in ([each.name for each in fields(kind)] if is_dataclass(kind) else [name])
    ]
    return [f"--{name.replace('_', '-')}" for name in names]


def test_real_processes_say_the_same(study, tmp_path):
    """`stage.run` in this process is no other than the one of the command line."""
    names = ("evaluate-truncated", "mask-of-twin", "sparsity-1.5", "ticket-half-ticket", "missing-tensor", "no-text")
    cases = {name: CASES[name] for name in names}
    commands = [
        [SCRIPTS[case.script], *expand(case.arguments, study).split(), "--output", tmp_path / "out"]
        for case in cases.values()
    ]
    for (name, case), command, ended in zip(cases.items(), commands, processes(commands), strict=True):
        assert ended.code == 1, (name, ended.err)
        assert one_line(ended) == one_line(call(case.script, *command[1:])), name
        assert case.script == "load_model" or ended.err.count("\n") == 1, name
    assert list(tmp_path.iterdir()) == []


WATCH = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*sorted({"torch", "transformers", "huggingface_hub", "pandas", "matplotlib"} & sys.modules.keys()))
"""


def test_histograms_and_masks_need_no_torch(study, tmp_path):
    """Starting torch takes longer than a mask of a small model."""
    count = ["-c", WATCH, SCRIPTS["count_keys"], *expand(COUNT, study).split(), "--output", tmp_path / "histogram"]
    mask = ["-c", WATCH, SCRIPTS["make_mask"], *expand(MASK, study).split(), "--output", tmp_path / "mask"]
    early = ["-c", WATCH, SCRIPTS["detect_early_bird"], "--masks", study / "llama.mask", "--output", tmp_path / "early"]
    units = [*mask[:-1], tmp_path / "units", "--scope", "channels"]
    export = ["--checkpoint", study / "llama", "--mask", study / "heads.mask", "--output", tmp_path / "smaller"]
    smaller = ["-c", WATCH, SCRIPTS["export_smaller"], *export]
    for ended in processes([count, mask, early, units, smaller]):
        assert (ended.code, ended.out) == (0, "\n"), ended
    assert (tmp_path / "histogram").read_bytes() == (study / "llama.histogram").read_bytes()
    assert (tmp_path / "mask").read_bytes() == (study / "llama.mask").read_bytes()


def test_log_holds_what_the_terminal_says(study, monkeypatch, tmp_path):
    monkeypatch.setenv("LTPIPE_LOG", str(tmp_path / "logs" / "mask.log"))
    command = [sys.executable, SCRIPTS["make_mask"], *expand(MASK, study).split()]
    for extra, code in (("--threads=1", 0), ("--sparsity=7", 1)):
        ended = subprocess.run(
            [*command, "--output", tmp_path / "out", extra], capture_output=True, text=True, check=False
        )
        assert ended.returncode == code
        assert ended.stderr.count("\n") == 1
        log = (tmp_path / "logs" / "mask.log").read_text()  # of this run, not of the one before
        assert log.startswith(ended.stderr)
        further = log.removeprefix(ended.stderr)
        assert further.startswith("peak main memory: planned to grow by ") if code == 0 else not further


def test_the_study_is_sound(study):
    """What the cases break works as it is: else they could fail for another reason."""
    assert Manifest.read(study / "llama" / MANIFEST).fingerprint != Manifest.read(study / "twin" / MANIFEST).fingerprint
    ticket, dense = Metrics.read(study / "ticket"), Metrics.read(study / "text.baseline")
    assert ticket.performance_retention == dense.loss / ticket.loss != 1
    assert (study / "report" / "index.html").is_file()
