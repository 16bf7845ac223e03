"""Every artefact of a small run, with flipped bits and cut short: its reader in the next stage refuses it by name."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltpipe.analysis.early_bird import Detector, EarlyBird
from ltpipe.analysis.early_bird_training import Drawing, watch_training
from ltpipe.analysis.overlap_tables import overlap_tables
from ltpipe.analysis.validation import validate_files
from ltpipe.analysis.validation_table import validation_table
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import CONFIG, GENERATION_CONFIG, MANIFEST, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.documents import Document
from ltpipe.data.sequences import TokenSequences, cut_sequences
from ltpipe.evaluation.agreement import TopTokens
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.inputs import PerturbationSettings, open_inputs
from ltpipe.evaluation.iterative import simulate_iterative_pruning
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.simulated import Simulation
from ltpipe.exporting.smaller import export_smaller
from ltpipe.planning.stages import StagePlan
from ltpipe.planning.table import write_plan
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import KeyHistogram, make_histogram
from ltpipe.pruning.masks import read_mask, write_whole_mask
from ltpipe.pruning.scorefile import ScoreFile
from ltpipe.pruning.solution import read_solution
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.recovery.record import RecoveryRecord
from ltpipe.recovery.recover import Recovery, recover
from ltpipe.recovery.settings import RecoverySettings
from ltpipe.reporting.folder import ReportFolder
from ltpipe.reporting.one_shot import TABLES, Files, one_shot_tables
from ltpipe.reporting.recognise import read_tables
from ltpipe.reporting.registry import TABLES as REPORTED
from ltpipe.reporting.report import Sources, write_report
from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.fake_device import Peak
from ltpipe.runtime.frames import csv_bytes, parquet_bytes, write_table
from ltpipe.runtime.sources import Source
from ltpipe.scoring.score import score_checkpoint
from ltpipe.solving.solve import solve_checkpoint
from ltpipe.tasks.answers import Responses
from ltpipe.tasks.requests import Generation, Requests
from ltpipe.tasks.respond import respond
from ltpipe.tasks.results import TaskResults, TaskScore
from ltpipe.training import settings as training_settings
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.connect import errors_between
from ltpipe.training.connectivity import Connectivity
from ltpipe.training.prune import PruningRule, prune_level
from ltpipe.training.record import LearningRecord
from ltpipe.training.run import Training, TrainingName, train_fully, train_to
from ltpipe.training.state import read_state, start_of, write_state
from ltpipe.training.task import prepared_task, read_task, write_task
from ltpipe.workflow import grid
from ltpipe.workflow.plan import StudyPlan
from ltpipe.workflow.refinement import Refinement, refinement

CPU = ComputeSettings(device="cpu", threads=1)
READ_BY_NONE = None
"""Products: people and other tools read them, and no stage."""


@dataclass(frozen=True)
class Kept:
    """A file of an artefact, and how the stages that need it read it: all that they take from it."""

    path: str
    read: Callable[[Path], Any] | None


def tensors(file: TensorFile) -> dict[str, bytes]:
    return {name: file.array(name).tobytes() for name in file.specs}


def top(path: Path) -> TopTokens:
    inputs = open_inputs(Checkpoint.open(path.parent / "llama"), path.parent / "text.sequences", None, None, None)
    return TopTokens.read(path, inputs.measured_on, inputs.sequences.size - len(inputs.sequences), 96)


def scores(path: Path) -> tuple[str, bool, dict[str, bytes]]:
    file = ScoreFile(path)
    return file.criterion, file.signed, {name: file.array(name).tobytes() for name in file.names}


def recovered(path: Path) -> tuple:
    return solution(path, path.with_name("0.5.mask"))


def solution(path: Path, of: Path | None = None) -> tuple:
    mask = of or path.with_name("sparsegpt.mask")
    found = read_solution(path, read_mask(mask), mask, Checkpoint.open(path.parent / "llama").manifest.tensors)
    return {name: array.tobytes() for name, array in found.values.items()}, found.errors, found.options


def table(path: Path) -> str:
    """What the report takes of a table, by its own path or that of its checksum."""
    ((part,),) = read_tables([path.with_suffix("") if path.suffix == ".sha256" else path]).values()
    return part[1].to_csv()


def report(path: Path) -> list[str]:
    """What is taken of a report, by the path of any file in it."""
    folder = ReportFolder(path.parent)
    return [folder.table(each).to_csv() for each in REPORTED]


CHECKPOINT = (
    Kept(f"llama/{WEIGHTS}", lambda path: tensors(Checkpoint.open(path.parent).weights)),
    Kept(f"llama/{MANIFEST}", Manifest.read),
    Kept(f"llama/{CONFIG}", lambda path: Checkpoint.open(path.parent).config),
    Kept(f"llama/{GENERATION_CONFIG}", lambda path: Checkpoint.open(path.parent).verified(path.name)),
    Kept(f"llama/{TOKENIZER}", lambda path: Checkpoint.open(path.parent).verified(path.name)),
    Kept(f"llama/{TOKENIZER_CONFIG}", lambda path: Checkpoint.open(path.parent).verified(path.name)),
)
METRICS, SEQUENCES = Metrics.read, TokenSequences.read
KINDS: dict[str, tuple[Kept, ...]] = {
    "CHECKPOINT": CHECKPOINT,
    "SEQUENCES": (Kept("text.sequences", SEQUENCES),),
    "CALIBRATION": (Kept("calibration.sequences", SEQUENCES),),
    "SCORES": (Kept("wanda.scores", scores),),
    "HISTOGRAM": (Kept("magnitude.histogram", KeyHistogram.read),),
    "MASK": (Kept("0.5.mask", read_mask),),
    "SOLUTION": (Kept("sparsegpt.solution", solution),),
    "RECOVERY_TEXT": (Kept("calibration.sequences", SEQUENCES),),
    "RECOVERED": (Kept("recovered.solution", recovered),),
    "RECOVERY": (Kept("recovered.json", RecoveryRecord.read),),
    "SMALLER": (
        Kept(f"smaller/{WEIGHTS}", lambda path: tensors(TensorFile(path))),
        *(Kept(f"smaller/{name}", READ_BY_NONE) for name in (CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG)),
    ),
    "BASELINE": (Kept("baseline.json", METRICS),),
    "TICKET": (Kept("ticket.json", METRICS),),
    "TICKET_AHEAD": (Kept("ahead.json", METRICS),),
    "TOP_TOKENS": (Kept("top.safetensors", top),),
    "PERTURBED_DENSE": (Kept("perturbed-dense.json", METRICS),),
    "PERTURBED_TICKET": (Kept("perturbed-ticket.json", METRICS),),
    "OVERLAP": (
        Kept("overlap.csv", table),
        Kept("overlap.csv.sha256", table),
        Kept("overlap.parquet", READ_BY_NONE),
    ),
    "VALIDATION": (
        Kept("validation.csv", table),
        Kept("validation.csv.sha256", table),
    ),
    "TABLES": tuple(
        Kept(f"tables/{each.name}.parquet{digest}", table) for each in TABLES for digest in ("", ".sha256")
    ),
    "TASK_REQUESTS": (Kept("requests.safetensors", Requests.read),),
    "DENSE_RESPONSES": (Kept("dense-responses.json", Responses.read),),
    "TICKET_RESPONSES": (Kept("ticket-responses.json", Responses.read),),
    "TASK_RESULTS": (Kept("task-results.json", TaskResults.read),),
    "REFINEMENT": (Kept("round.json", Refinement.read),),
    "SIMULATION": (Kept("simulation.json", Simulation.read), Kept("simulation.safetensors", read_mask)),
    "TASK": (Kept("task.safetensors", lambda path: read_task(path).identity),),
    "POINT": (Kept("point.safetensors", read_state),),
    "LEVEL_MASK": (Kept("level.mask", read_mask),),
    "TRAINED": (
        Kept("ticket.safetensors", read_state),
        Kept("ticket.safetensors.resume", lambda path: read_state(path, "this")),
    ),
    "RECORD": (Kept("record.json", LearningRecord.read),),
    "CONNECTIVITY": (Kept("connectivity.json", Connectivity.read),),
    "EARLY_BIRD": (Kept("bird.json", EarlyBird.read), Kept("bird.safetensors", read_mask)),
    "REPORT": (
        *(Kept(f"report/{name}", report) for name in ("tickets.csv", "levels.parquet", "findings.csv", "SHA256SUMS")),
    ),
    "PLAN": (Kept("plan.json", StudyPlan.read),),
}
"""By the constant of `grid` that names the artefact."""

FILES = [kept for kind in KINDS.values() for kept in kind if kept.read]


def test_every_artefact_of_the_grid_is_here():
    named = {name for name, value in vars(grid).items() if name.isupper() and str(value).startswith("results/")}
    assert {name for name in named if not name.startswith("_")} == KINDS.keys()


@pytest.fixture(scope="module")
def run(tmp_path_factory, source_folder) -> Path:
    """One small run by the functions that the stages call."""
    root = tmp_path_factory.mktemp("run")
    llama = root / "llama"
    load_checkpoint(Source(str(source_folder("llama"))), None, "auto", llama)
    documents = [Document("a", " ".join(f"w{number**2 % 93}" for number in range(300)))]
    for name in ("text", "calibration"):
        cut_sequences(documents, llama / TOKENIZER, 16, 4, " ", "data.text").write(root / f"{name}.sequences")
    text, histogram, mask = root / "text.sequences", root / "magnitude.histogram", root / "0.5.mask"
    score_checkpoint(
        Checkpoint.open(llama), "wanda", root / "wanda.scores", Selection(), root / "calibration.sequences", CPU
    )
    make_histogram(Checkpoint.open(llama), "magnitude", None, Selection()).write(histogram)
    make_mask(Checkpoint.open(llama), histogram, "layer", "0.5", mask)
    make_mask(Checkpoint.open(llama), histogram, "layer", "0.7", root / "0.7.mask")
    make_mask(Checkpoint.open(llama), histogram, "blocks", "0.4", root / "blocks.mask")
    export_smaller(Checkpoint.open(llama), root / "blocks.mask", root / "smaller")
    solve_checkpoint(
        Checkpoint.open(llama), "sparsegpt", "row", "0.5", root / "calibration.sequences", root / "sparsegpt.mask",
        root / "sparsegpt.solution", Selection(), CPU,
    )  # fmt: skip
    settings = RecoverySettings("lora", 0.01, 1, 2)
    training = Recovery(Checkpoint.open(llama), mask, root / "calibration.sequences", settings, TrainingCompute("cpu"))
    recover(training, root / "recovered.solution", root / "recovered.json")
    _evaluations(root, llama, text, mask)
    _tasks(root, llama, mask)
    shutil.copyfile(root / "ticket.json", root / "ahead.json")
    names = ("llama", "text")
    simulate_iterative_pruning(
        Checkpoint.open(llama), histogram, text, CPU, 0.5, 2, 1, names, root / "simulation.safetensors"
    ).write(root / "simulation.json")
    refinement("llama", (root / "ticket.json",), "0.1", (), None).write(root / "round.json")
    masks = [mask, root / "0.7.mask"]
    write_table(root / "overlap.csv", csv_bytes(overlap_tables("llama", masks)[0]))
    verdicts = validate_files(masks, Checkpoint.open(llama))
    write_table(root / "validation.csv", csv_bytes(validation_table("llama", verdicts)))
    _study(root)
    measured = Files((root / "baseline.json",), (root / "ticket.json",), tasks=(root / "task-results.json",))
    for name, table in one_shot_tables(measured).items():
        write_table(root / f"tables/{name}.parquet", parquet_bytes(table))
    tables = (*(root / f"tables/{each.name}.parquet" for each in TABLES), root / "overlap.csv")
    sources = Sources((root / "baseline.json",), tables, records=(root / "record.json",))
    write_report(sources, root / "report")
    write_plan([StagePlan("mask", "llama", None, 1, Peak(), 1, 1)], {"models": {}}, root / "plan.json")
    return root


def _evaluations(root: Path, llama: Path, text: Path, mask: Path) -> None:
    names, noise = {"model": "llama", "data": "text"}, PerturbationSettings("noise-0.1", 0)
    tops, baseline = root / "top.safetensors", root / "baseline.json"
    evaluate_checkpoint(Checkpoint.open(llama), text, CPU, names, top_tokens=tops, top_k=4).write(baseline)
    for name, given, perturbation in (
        ("ticket", mask, None),
        ("perturbed-dense", None, noise),
        ("perturbed-ticket", mask, noise),
    ):
        metrics = evaluate_checkpoint(
            Checkpoint.open(llama),
            text,
            CPU,
            names,
            given,
            baseline,
            top_tokens=tops,
            top_k=4,
            perturbation=perturbation,
        )
        metrics.write(root / f"{name}.json")


def _tasks(root: Path, llama: Path, mask: Path) -> None:
    tokenizer = Checkpoint.open(llama).manifest.files[TOKENIZER]
    windows = [(0, [4, 5, 6, 7], 2), (1, [4, 5, 6, 8], 1), (2, [9, 10], 0)]
    kinds, generations = [("loglikelihood", 2), ("generate_until", 1)], [Generation(("w1",), 3)]
    Requests.of(windows, kinds, generations, "asked", tokenizer, {"task": "t"}).write(root / "requests.safetensors")
    names, scores = {"model": "llama", "task": "t"}, []
    for name, given in (("dense", None), ("ticket", mask)):
        found = respond(Checkpoint.open(llama), root / "requests.safetensors", CPU, names, given)
        found.write(root / f"{name}-responses.json")
        cell = {axis: getattr(found, axis) for axis in ("criterion", "scope", "seed", "sparsity")}
        scores.append(
            TaskScore(
                **cell, task="t", version="1", num_fewshot=0, metric="acc", filter="none", higher_is_better=True,
                value=0.5, stderr=0.5, items=[0.0, 1.0], documents=2, available=3, chance=0.25,
            )
        )  # fmt: skip
    provenance = {"inputs": {}, "settings": {}}
    TaskResults(model="llama", task="t", limit=2, scores=scores, provenance=provenance).write(
        root / "task-results.json"
    )


def _study(root: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16))
    np.savetxt(root / "digits.csv", np.c_[pixels, np.arange(60) % 4], "%d", ",")
    options = {"model": "lenet-300-100", "source": str(root / "digits.csv"), "validation": 10, "test": 10}
    write_task(root / "task.safetensors", "images", prepared_task("images", options | {"split_seed": 0}, "task"))
    task, cpu = read_task(root / "task.safetensors"), TrainingCompute("cpu")
    how = training_settings.TrainingSettings("adam", 0.01, 4, 10, 2, 0)
    training = Training(task, how, start_of(task.start(0)), cpu)
    train_to(training, 1, root / "point.safetensors")
    train_fully(training, root / "ticket.safetensors", root / "record.json", TrainingName(level=0))
    ticket = read_state(root / "ticket.safetensors")
    write_state(root / "ticket.safetensors.resume", ticket, "this")
    write_whole_mask(root / "level.mask", prune_level(task, ticket, PruningRule(), 0, cpu))
    errors = errors_between(task, ticket, ticket, cpu)
    Connectivity.of("study", 0, 0, ("ticket", "order-1"), errors).write(root / "connectivity.json")
    found, bird = watch_training(training, Drawing(Sparsity.of("0.5"), every=1), Detector(), TrainingName())
    found.write(root / "bird.json")
    write_whole_mask(root / "bird.safetensors", bird)


def damaged(content: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """A bit flipped anywhere, or where headers and first entries are; what a truncation leaves; zeroed pages."""
    for reach in (len(content), min(len(content), 600)):
        for position in rng.integers(0, 8 * reach, 40):
            flipped = bytearray(content)
            flipped[position // 8] ^= 1 << position % 8
            yield bytes(flipped)
    for length in {0, 7, 8, len(content) - 1, *rng.integers(0, len(content), 12).tolist()}:
        yield content[:length]
    start = int(rng.integers(0, len(content)))
    zeroed = content[:start] + bytes(min(512, len(content) - start)) + content[start + 512 :]
    yield from [zeroed] if zeroed != content else []


def same(found: object, sound: object) -> bool:
    """Whether two things that were read are equal, tensors and arrays in them too."""
    if isinstance(sound, torch.Tensor | np.ndarray):
        return type(found) is type(sound) and found.dtype == sound.dtype and bool((found == sound).all())
    if isinstance(sound, dict):
        return found.keys() == sound.keys() and all(same(found[key], value) for key, value in sound.items())
    if isinstance(sound, list | tuple):
        return len(found) == len(sound) and all(map(same, found, sound))
    return same(vars(found), vars(sound)) if hasattr(sound, "__dict__") else found == sound


@pytest.mark.parametrize("kept", FILES, ids=lambda kept: kept.path)
def test_damage_is_refused_by_name(kept: Kept, run: Path):
    path = run / kept.path
    content, sound, refused = path.read_bytes(), kept.read(path), 0
    rng = np.random.default_rng(list(kept.path.encode()))
    try:
        for number, damage in enumerate(damaged(content, rng)):
            _put(path, damage)
            try:
                found = kept.read(path)
            except DamagedFileError as error:
                refused += 1
                message = str(error)
                assert str(path).removesuffix(".sha256") in message
                assert MEND in message
                assert "\n" not in message
            else:
                assert same(found, sound), f"damage {number} was used"
        assert refused > number * 0.9, "what changes nothing is rare"
    finally:
        _put(path, content)
    assert same(kept.read(path), sound)


def _put(path: Path, content: bytes) -> None:
    """Put another file in its place; one that is mapped must not change under its reader."""
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def test_checksums_that_end_at_a_line_are_damaged_too(run: Path):
    """Each line that is left is right, and a table that no line names would be taken for one that is not there."""
    path = run / "report/SHA256SUMS"
    content = path.read_bytes()
    tables = [table for table in TABLES if (run / "report" / table.files[0]).exists()]
    assert len(tables) > 5
    lines, refused = content.splitlines(keepends=True), 0
    try:
        for count in range(1, len(lines)):
            _put(path, b"".join(lines[:count]))
            listed = {line.split()[1].decode() for line in lines[:count]}
            if any(listed.isdisjoint(table.files) for table in tables):
                refused += 1
                with pytest.raises(DamagedFileError, match=r"SHA256SUMS: damaged: it does not list"):
                    ReportFolder(path.parent)
    finally:
        _put(path, content)
    assert refused > 5
