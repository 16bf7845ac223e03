"""Every kind of artefact is recognised by its content and described; anything else is refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from handmade import exact, mask_of, save_mask
from structured import make

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, TOKENIZER, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.exporting.formats import export_ticket
from ltpipe.inspection.description import Listing, describe_file
from ltpipe.inspection.masks import describe_pair
from ltpipe.inspection.recognise import describe
from ltpipe.inspection.tables import INSPECTED
from ltpipe.planning.stages import StagePlan
from ltpipe.planning.table import write_plan
from ltpipe.pruning.masks import read_mask
from ltpipe.pruning.scorefile import score_writer
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.reporting.tables import findings
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.fake_device import Peak
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.frames import csv_bytes, frame, parquet_bytes, write_table
from ltpipe.runtime.jsonfiles import write_record
from ltpipe.solving.solve import solve_checkpoint
from ltpipe.tasks.requests import Generation, Requests
from ltpipe.tasks.respond import respond
from ltpipe.tasks.results import TaskResults, TaskScore
from ltpipe.training.connectivity import Connectivity
from ltpipe.training.record import LearningRecord
from ltpipe.training.state import Point, TrainingState, write_state
from ltpipe.workflow.plan import StudyPlan
from ltpipe.workflow.refinement import Refinement

PROVENANCE = {"inputs": {"task": "abc"}, "git_commit": None}


@pytest.fixture(scope="module")
def place(canonical_folder, tmp_path_factory):
    """A folder with an artefact of every kind, under names that say nothing."""
    folder, here = canonical_folder("llama"), tmp_path_factory.mktemp("artefacts")
    mask = make(folder, "layer", "0.6", here / "m")
    ids = np.random.default_rng(0).integers(3, 90, (5, 12), dtype=np.int32)
    TokenSequences(ids, 17, 3, sha256_of(folder / TOKENIZER), "wikitext2").write(here / "ids")
    names = {"model": "tiny", "data": "words"}
    evaluate_checkpoint(
        Checkpoint.open(folder), here / "ids", ComputeSettings(), names, top_tokens=here / "top", top_k=4
    ).write(here / "dense")
    evaluate_checkpoint(Checkpoint.open(folder), here / "ids", ComputeSettings(), names, mask, here / "dense").write(
        here / "ticket"
    )
    export_ticket("bool", mask, None, here / "plain")
    export_ticket("hf", mask, Checkpoint.open(folder), here / "hf")
    manifest = Manifest.read(folder / MANIFEST)
    up = "model.layers.0.mlp.up_proj.weight"
    with score_writer(here / "scores", manifest, [up], "snip", True, {"precision": "float32"}) as deliver:
        deliver(up, np.linspace(-1, 2, 48 * 32, dtype=np.float32))
    solve_checkpoint(
        Checkpoint.open(folder), "sparsegpt", "2of4", "0.5", here / "ids", here / "solved", here / "solution",
        Selection(), ComputeSettings(device="cpu"),
    )  # fmt: skip
    LearningRecord(
        "s", 0, 1, "ticket", (0, 10), (2.3, 0.1), (0.1, 0.9), 10, 0.1, 0.9, 0.1, 0.9, 0.1, 50, 100, 1.5, PROVENANCE
    ).write(here / "learned")
    Connectivity.of("s", 0, 1, ("ticket", "order-1"), (0.1, 0.2)).write(here / "line")
    EarlyBird("s", 0, Sparsity.of("0.5"), "hamming", 0.1, 2, 1, False, (10, 20), (None, 0.07), 20).write(here / "bird")
    cell = ("tiny", "words", "magnitude", "layer", "none", "0.4")
    Refinement("tiny", "0.1", (3,), (cell,)).write(here / "round")
    import torch

    kept = {"w": torch.tensor([True, False, True])}
    state = TrainingState({"w": torch.tensor([1.0, 0, 2])}, {}, {}, 20, kept, (Point(0, 2.0, 0.1), Point(20, 1.0, 0.5)))
    write_state(here / "state", state, "t")
    write_plan([StagePlan("mask", "tiny", None, 2, Peak(7, {"a": 7}), 100, 10)], {"models": {}}, here / "plan")
    windows = [(0, [4, 5, 6, 7], 2), (1, [9, 10], 0)]
    kinds = [("loglikelihood", 1), ("generate_until", 1)]
    tokenizer = manifest.files["tokenizer.json"]
    Requests.of(windows, kinds, [Generation(("w1",), 2)], "", tokenizer, {"task": "arc", "limit": 1}).write(
        here / "asked"
    )
    answers = respond(
        Checkpoint.open(folder), here / "asked", ComputeSettings(device="cpu"), {"model": "tiny", "task": "arc"}, mask
    )
    answers.write(here / "answered")
    score = TaskScore(
        criterion="magnitude", scope="layer", seed=None, sparsity="0.6", task="arc", version="1", num_fewshot=0,
        metric="acc", filter="none", higher_is_better=True, value=1.0, stderr=None, items=[1.0], documents=1,
        available=9, chance=0.25,
    )  # fmt: skip
    TaskResults(model="tiny", task="arc", limit=1, scores=[score], provenance=PROVENANCE).write(here / "scored")
    described = {"format": "2", "kind": "task", "task": "images", "specification": "{}"}
    write_tensors(here / "task", [TensorData.of("train", ids)], described)
    return here


FACTS = {
    "m": ("mask", {"criterion": "magnitude", "scope": "layer", "sparsity": "0.6", "seed": None, "verdict": "sound"}),
    "m.histogram": ("histogram of scores", {"criterion": "magnitude", "bits a score": 31}),
    "ids": ("set of token sequences", {"sequences": 5, "predicted tokens": 55, "protocol": "wikitext2"}),
    "top": ("set of top-k tokens", {"predictions": 55, "k": 4}),
    "dense": (
        "metrics of a dense model",
        {"model": "tiny", "num_sequences": 5, "protocol": "wikitext2", "sparsity": None},
    ),
    "ticket": ("metrics of a ticket", {"criterion": "magnitude", "sparsity": "0.6", "tokens": 55}),
    "plain": ("plain mask", {"criterion": "magnitude", "sparsity": "0.6"}),
    "hf": ("exported ticket", {"criterion": "magnitude", "sparsity": "0.6"}),
    "scores": ("set of scores", {"criterion": "snip", "weights": 48 * 32, "precision": "float32"}),
    "solved": ("mask", {"criterion": "sparsegpt", "scope": "2of4", "verdict": "sound"}),
    "solution": ("solution", {"criterion": "sparsegpt", "scope": "2of4", "damping": 0.01}),
    "learned": ("learning record", {"branch": "ticket", "kept": 50, "input task": "abc"}),
    "line": ("linear connectivity", {"stable": False, "level": 1}),
    "bird": ("early-bird detection", {"converged": 20}),
    "round": ("refinement", {"model": "tiny", "to": "0.1"}),
    "state": ("training state", {"iteration": 20, "kept": 2, "maskable": 3, "optimizer": "fresh"}),
    "asked": ("set of requests", {"task": "arc", "requests of kind loglikelihood": 1, "predicted tokens": 2}),
    "answered": ("set of responses", {"task": "arc", "criterion": "magnitude", "sparsity": "0.6", "tokens": 3}),
    "scored": ("results of a task", {"model": "tiny", "task": "arc", "limit": 1}),
    "plan": ("plan", {"fits": True}),
    "task": ("task", {"task": "images"}),
}


@pytest.mark.parametrize("name", FACTS)
def test_every_artefact(name, place, capsys):
    kind, facts = FACTS[name]
    described = describe(place / name)
    assert described.kind == kind
    assert facts.items() <= described.facts.items()
    machine = json.loads(described.as_json())
    assert facts.items() <= machine["facts"].items()
    described.show()
    printed = capsys.readouterr().out
    assert printed.startswith(f"{place / name}")
    assert [fact for fact in facts if fact not in printed] == []


def test_a_checkpoint(canonical_folder):
    described = describe(canonical_folder("qwen2"))
    assert described.kind == "checkpoint"
    assert described.facts["tied"] == ["lm_head.weight = model.embed_tokens.weight"]
    assert described.facts["fingerprint"] == Manifest.read(canonical_folder("qwen2") / MANIFEST).fingerprint


@pytest.mark.parametrize("declared", INSPECTED, ids=lambda declared: declared.of)
def test_tables(declared, tmp_path):
    words = [name for name, column in declared.columns.items() if column.dtype in ("string", "category")]
    table = frame([dict.fromkeys(words, "tiny")], declared.columns)
    write_table(tmp_path / "a", csv_bytes(table))
    write_table(tmp_path / "b", parquet_bytes(table))
    for name in ("a", "b"):
        described = describe(tmp_path / name)
        assert described.kind == f"table of {declared.of}"
        assert described.facts["rows"] == 1
        assert "tiny" in described.facts.get("model", ()) or "tiny" in described.facts["training"]


def test_damage_is_seen(tmp_path):
    write_record(tmp_path / "plan", {**StudyPlan.head(), "fits": True, "stages": [{}]})
    write_table(tmp_path / "findings.csv", csv_bytes(frame([{"training": "tiny"}], findings.COLUMNS)))
    text = (tmp_path / "findings.csv").read_text()
    (tmp_path / "findings.csv").write_text(text.replace("tiny", "tinz"))
    for name, words in (
        ("plan", "not a plan, or damaged"),
        ("findings.csv", "does not match .*findings.csv.sha256"),
    ):
        with pytest.raises(DamagedFileError, match=words):
            describe(tmp_path / name)
    (tmp_path / "findings.csv.sha256").unlink()
    assert describe(tmp_path / "findings.csv").facts["training"] == ["tinz"]


def test_a_mask_tensor_by_tensor_and_on_its_model(place, canonical_folder):
    described = describe(place / "m")
    mask = read_mask(place / "m")
    (listing,) = described.listings
    rows = [dict(zip(listing.columns, row, strict=True)) for row in listing.rows]
    assert {row["tensor"]: row["kept"] for row in rows} == dict(mask.kept)
    assert described.facts["kept"] == sum(row["kept"] for row in rows)
    assert "dead rows" not in described.facts
    on_model = describe(place / "m", canonical_folder("llama")).facts
    assert on_model["rows"] == sum(shape[0] for shape in mask.shapes.values())
    assert on_model["heads"] == 3 * (4 + 2 + 2)
    other = describe(place / "m", canonical_folder("qwen2")).facts
    assert (other["verdict"], "wrong model" in other["reasons"][0]) == ("broken", True)


def test_what_a_mask_alone_tells(tmp_path):
    """Promised counts and dead tensors."""
    arrays = {"a.weight": np.ones((4, 4), np.bool_), "b.weight": np.zeros((4, 4), np.bool_)}
    layered = describe(save_mask(mask_of(arrays, scope="layer"), tmp_path / "layer")).facts
    assert (layered["verdict"], len(layered["reasons"])) == ("broken", 3)
    dead = describe(save_mask(mask_of(arrays), tmp_path / "global")).facts
    assert (dead["verdict"], dead["reasons"]) == ("warnings", ["layer collapse: nothing kept in 'b.weight'"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "nor a table of ltpipe"),
        (b"words and words\n", "nor a table of ltpipe"),
        (b'{"a": 1}', "JSON, but not an artefact of ltpipe"),
        (b'{"a": ', "not valid JSON"),
        (bytes(range(256)), "neither an artefact nor a table of ltpipe"),
        (b"PAR1 is not enough", "neither an artefact nor a table of ltpipe"),
        (b'{"format": 4, "performance_retention": 1}', "no checksum"),
        (b'{"kind": "plan", "fits": true, "stages": [{}]}', "no checksum"),
    ],
)
def test_strangers_are_refused_in_one_line(content, words, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        describe(tmp_path / "file")
    assert str(caught.value).startswith(str(tmp_path / "file"))
    assert "\n" not in str(caught.value)


def test_strange_tensors_and_folders(canonical_folder, tmp_path):
    with pytest.raises(UserError, match="not an artefact of ltpipe; for a checkpoint, inspect the folder"):
        describe(canonical_folder("llama") / WEIGHTS)
    with pytest.raises(UserError, match="not a checkpoint folder"):
        describe(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        describe(tmp_path / "nothing")
    shutil.copyfile(canonical_folder("llama") / WEIGHTS, tmp_path / "half")
    with (tmp_path / "half").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(UserError, match="truncated"):
        describe(tmp_path / "half")


def test_tables_are_as_wide_as_they_are(capsys, monkeypatch):
    """In a narrow terminal, and where there is none: no name is broken and no digit is cut."""
    monkeypatch.setenv("COLUMNS", "40")
    rows = [{"tensor": f"model.layers.{block}.self_attn.q_proj.weight", "kept": 123456789} for block in (1, 10)]
    describe_file(Path("a"), "mask", {}, Listing.of("tensors", rows)).show()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed[-2:]] == [[row["tensor"], "123,456,789"] for row in rows]


# --- two masks


def test_two_masks(tmp_path):
    generator = np.random.default_rng(0)
    one = {"a": exact((10, 12), 60, generator), "b": exact((8, 8), 20, generator)}
    other = {"a": exact((10, 12), 30, generator), "b": exact((8, 8), 20, generator)}
    a, b = (save_mask(mask_of(arrays), tmp_path / name) for name, arrays in (("x", one), ("y", other)))
    described = describe_pair(a, b)
    flat = [np.concatenate([arrays[name].reshape(-1) for name in "ab"]) for arrays in (one, other)]
    both, either = int((flat[0] & flat[1]).sum()), int((flat[0] | flat[1]).sum())
    facts = described.facts
    assert (facts["kept_a"], facts["kept_b"], facts["both"]) == (80, 50, both)
    assert facts["jaccard"] == pytest.approx(both / either)
    assert facts["hamming"] == pytest.approx((flat[0] != flat[1]).mean())
    chance = 80 * 50 / 184
    assert facts["jaccard_chance"] == pytest.approx(chance / (130 - chance))
    (listing,) = described.listings
    assert [row[0] for row in listing.rows] == ["a", "b"]
    assert "checkpoints" not in facts

    export_ticket("bool", b, None, tmp_path / "plain")
    assert describe_pair(a, tmp_path / "plain").facts["both"] == both
    elsewhere = save_mask(mask_of(other, checkpoint="f" * 64), tmp_path / "z")
    assert describe_pair(a, elsewhere).facts["checkpoints"].startswith("differ: c0ffee")
    strangers = save_mask(mask_of({"a": one["a"]}), tmp_path / "fewer")
    with pytest.raises(UserError, match="masks of different weights cannot be compared"):
        describe_pair(a, strangers)
