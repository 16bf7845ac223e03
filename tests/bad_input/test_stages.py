"""The stages' command lines beside the catalogue: usage, help, logs, real processes, and what is not imported."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
from bad_input.case import expand, on
from bad_input.running import SCRIPTS, call, main_of, one_line, processes
from bad_input.stages import COUNT, DATA, DENSE, MASK, STAGES, VALIDATE

from ltpipe.checkpoints.filenames import MANIFEST
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.metrics import Metrics


@pytest.mark.parametrize("device", ["cuda:99", "xpu:99"])
def test_absent_device(device, study, tmp_path):
    arguments = expand(on(DENSE, device=device, output=str(tmp_path / "out")), study).split()
    ended = call("evaluate", *arguments)
    assert ended.code == 1
    assert one_line(ended).startswith(f"device: '{device}' is not on this machine; use auto, cpu")
    assert list(tmp_path.iterdir()) == []


def test_analyses_of_masks_need_no_torch(study, tmp_path):
    compare = f"--masks {study.root}/llama.mask {study.root}/llama.sparser --layers {tmp_path}/layers".split()
    compare = ["-c", WATCH, SCRIPTS["overlap"], *compare, "--output", tmp_path / "overlap"]
    checked = expand(VALIDATE, study).split()
    checked = ["-c", WATCH, SCRIPTS["validation"], *checked, "--output", tmp_path / "validation"]
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
        ("histogram", on(COUNT, preset="some"), ("--preset", "all-weights")),
        ("histogram", on(COUNT, seed="x"), ("--seed",)),
        ("mask", "--checkpoint @llama", ("--histogram", "--sparsity")),
        ("checkpoint", "--source @source --dtype int8", ("--dtype", "bfloat16")),
        ("sequences", on(DATA, num_sequences="many"), ("--num-sequences", "all")),
        ("sequences", on(DATA, documents="best"), ("--documents", "calibration")),
        ("tables", "--tickets @ticket", ("--baselines",)),
        ("print_table", "@ticket", ("Unrecognized",)),
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_real_processes_say_the_same(study, tmp_path):
    """`stage.run` in this process is no other than the one of the command line."""
    names = ("evaluate-truncated", "mask-of-twin", "sparsity-1.5", "ticket-half-ticket", "missing-tensor", "no-text")
    cases = {name: STAGES[name] for name in names}
    commands = [
        [SCRIPTS[case.script], *expand(case.arguments, study).split(), "--output", tmp_path / "out"]
        for case in cases.values()
    ]
    for (name, case), command, ended in zip(cases.items(), commands, processes(commands), strict=True):
        assert ended.code == 1, (name, ended.err)
        assert one_line(ended) == one_line(call(case.script, *command[1:])), name
        assert case.script == "checkpoint" or ended.err.count("\n") == 1, name
    assert list(tmp_path.iterdir()) == []


WATCH = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*sorted({"torch", "transformers", "huggingface_hub", "pandas", "altair"} & sys.modules.keys()))
"""


def test_histograms_and_masks_need_no_torch(study, tmp_path):
    """Starting torch takes longer than a mask of a small model."""
    count = ["-c", WATCH, SCRIPTS["histogram"], *expand(COUNT, study).split(), "--output", tmp_path / "histogram"]
    mask = ["-c", WATCH, SCRIPTS["mask"], *expand(MASK, study).split(), "--output", tmp_path / "mask"]
    early = ["-c", WATCH, SCRIPTS["detect_early_bird"], "--masks", study / "llama.mask", "--output", tmp_path / "early"]
    units = [*mask[:-1], tmp_path / "units", "--scope", "channels"]
    export = ["--checkpoint", study / "llama", "--mask", study / "heads.mask", "--output", tmp_path / "smaller"]
    smaller = ["-c", WATCH, SCRIPTS["smaller"], *export]
    for ended in processes([count, mask, early, units, smaller]):
        assert (ended.code, ended.out) == (0, "\n"), ended
    assert (tmp_path / "histogram").read_bytes() == (study / "llama.histogram").read_bytes()
    assert (tmp_path / "mask").read_bytes() == (study / "llama.mask").read_bytes()


def test_log_holds_what_the_terminal_says(study, monkeypatch, tmp_path):
    monkeypatch.setenv("LTPIPE_LOG", str(tmp_path / "logs" / "mask.log"))
    command = [sys.executable, SCRIPTS["mask"], *expand(MASK, study).split()]
    for extra, code in (("--threads=1", 0), ("--sparsity=7", 1)):
        ended = subprocess.run(
            [*command, "--output", tmp_path / "out", extra], capture_output=True, text=True, check=False
        )
        assert ended.returncode == code
        assert ended.stderr.count("\n") == 1
        log = (tmp_path / "logs" / "mask.log").read_text()  # of this run, not of the one before
        assert log.startswith(ended.stderr)
        further = log.removeprefix(ended.stderr)
        said = r"peak main memory: \d+ MiB planned for contents; the process grew by "
        assert re.match(said, further) if code == 0 else not further


def test_the_study_is_sound(study):
    """What the cases break works as it is: else they could fail for another reason."""
    assert Manifest.read(study / "llama" / MANIFEST).fingerprint != Manifest.read(study / "twin" / MANIFEST).fingerprint
    ticket, dense = Metrics.read(study / "ticket"), Metrics.read(study / "text.baseline")
    assert ticket.performance_retention == dense.loss / ticket.loss != 1
    assert (study / "report" / "index.html").is_file()
