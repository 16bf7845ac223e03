"""What jobs ask a scheduler for."""

import re
from pathlib import Path

import pytest

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import write_record
from ltpipe.workflow.config import check_config
from ltpipe.workflow.plan import PlannedPeak, PlannedStage, StudyPlan
from ltpipe.workflow.resources import (
    CUDA_MB,
    GROWTH,
    MARGIN,
    PYTHON_MB,
    SNAKEMAKE_MB,
    STAGES,
    memory_mb,
    memory_settings,
    minutes,
    planned_mb,
    read_plan,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> dict:
    for name in ("text.txt", "calibration.txt"):
        (tmp_path / name).write_text("words")
    return check_config(
        {
            "models": {"m": {"source": "hub:owner/m"}, "n": {"source": "hub:owner/n"}},
            "data": {name: {"source": str(tmp_path / f"{name}.txt")} for name in ("text", "calibration")},
            "grid": {"criteria": ["magnitude", "wanda"], "scopes": ["global"], "sparsities": [0.5]},
            "score": {"data": "calibration", "num_sequences": 8, "sequence_length": 64},
            "evaluate": {"num_sequences": 10, "sequence_length": 100},
            "robustness": {"perturbations": ["int4"]},
        },
    )


def planned_stage(model: str, stage: str, host: int) -> PlannedStage:
    return PlannedStage(stage, model, None, 1, PlannedPeak(0, {}), host, 0, None, "", "", 0, 0, 0)


@pytest.fixture
def plan_file(tmp_path: Path, config: dict) -> Path:
    """A plan of both models for this configuration; each stage of `m` takes 100, 200, … MiB."""
    names = ["checkpoint", "sequences", "score wanda", "histogram", "mask", "evaluation", "evaluation, int4"]
    stages = [planned_stage("m", name, 100 * (1 + i) * 2**20) for i, name in enumerate(names)]
    stages.append(planned_stage("m", "evaluation", 50 * 2**20))  # another, shorter text
    stages.append(planned_stage("n", "mask", 2**30))
    settings = {model: memory_settings(config, model) for model in config["models"]}
    path = tmp_path / "plan.json"
    StudyPlan(True, settings, stages).write(path)
    return path


def test_every_rule_that_runs_as_a_job_has_a_stage_and_asks_for_what_that_needs():
    text = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    parts = re.split(r"^(?:rule|checkpoint|use rule \w+ as) (\w+)(?: with)?:\n", text, flags=re.MULTILINE)[1:]
    needs = {
        name: re.findall(r'\*\*jobs\.needs\("(\w+)"\)', body)
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
    assert needs == {name: [name] for name in STAGES}


@pytest.mark.parametrize(
    ("rule", "axes", "planned"),
    [
        ("checkpoint", {"model": "m"}, 100),
        ("score", {"model": "m", "criterion": "wanda"}, 300),
        ("mask", {"model": "n"}, 1024),
        ("baseline", {"model": "m"}, 600),
        ("ticket", {"model": "m"}, 600),
        ("perturbed_ticket", {"model": "m", "perturbation": "int4"}, 700),
        ("ticket", {"model": "n"}, None),
        ("score", {"model": "m", "criterion": "snip"}, None),
        ("overlap", {"model": "m"}, None),
        ("training", {"training": "s"}, None),
    ],
)
def test_memory_is_what_was_planned_for_the_stage(config, plan_file, rule, axes, planned):
    assert planned_mb(read_plan(plan_file, config), rule, axes) == planned


def test_a_job_asks_for_its_stage_for_snakemake_and_for_more_with_every_attempt():
    first = memory_mb("ticket", 1000, 0, 0, 1)
    assert first == SNAKEMAKE_MB + MARGIN * 1000
    assert memory_mb("ticket", 1000, 10**6, 0, 1) == first, "planned: the files do not matter"
    assert memory_mb("ticket", 1000, 0, 2, 1) == first + 2 * CUDA_MB
    assert memory_mb("ticket", 1000, 0, 0, 3) == pytest.approx(first * GROWTH**2, abs=1)
    assert memory_mb("mask", None, 500, 0, 1) == SNAKEMAKE_MB + PYTHON_MB + 2 * 500
    assert memory_mb("checkpoint", None, 0, 0, 1) > 16_000, "the size of a model on the Hub is not known"


def test_time_follows_tokens_iterations_and_attempts(config):
    def evaluation(**changes) -> int:
        return minutes(
            config, **{"rule": "ticket", "axes": {"model": "m", "data": "text"}, "input_mb": 10**5, "gpus": 0} | changes
        )

    first = evaluation(threads=1, attempt=1)
    assert first == pytest.approx(10 + 10**5 / 3000 + 1000 * 10**5 * 2**20 / (60 * 1e10), abs=1)
    assert evaluation(threads=1, attempt=2) == pytest.approx(GROWTH * first, abs=2)
    assert evaluation(threads=8, attempt=1) < first
    assert evaluation(threads=8, attempt=1, gpus=1) < evaluation(threads=8, attempt=1)
    assert minutes(config, "mask", {"model": "m"}, 0, 0, 1, 1) == 10
    config["imp"]["s"] = {"train": {"iterations": 6000}}
    assert minutes(config, "training", {"training": "s"}, 0, 0, 1, 1) == 130


@pytest.mark.parametrize(
    ("section", "key", "value", "changed"),
    [
        ("evaluate", "sequence_length", 200, "evaluate"),
        ("score", "num_sequences", 9, "score"),
        ("grid", "scopes", ["global", "layer"], "scopes"),
        ("grid", "criteria", ["magnitude"], "criteria"),
        ("robustness", "perturbations", [], "perturbations"),
    ],
)
def test_a_plan_for_other_settings_is_not_used(config, plan_file, section, key, value, changed):
    config[section][key] = value
    plan = read_plan(plan_file, config)
    assert plan.host == {}
    assert plan.outdated == {"m": (changed,), "n": (changed,)}


def test_of_a_model_that_was_changed_or_added_nothing_is_used_but_of_the_others_all(config, plan_file):
    config["models"]["m"]["dtype"] = "bfloat16"
    config["models"]["o"] = config["models"]["n"]
    plan = read_plan(plan_file, config)
    assert plan.outdated["m"] == ("models",)
    assert set(plan.outdated) == {"m", "o"}
    assert {model for model, _ in plan.host} == {"n"}


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("grid", "sparsities", [0.1, 0.2]), ("grid", "seeds", [7]), ("evaluate", "data", ["text"])],
)
def test_what_needs_no_other_memory_keeps_the_plan(config, plan_file, section, key, value):
    config[section][key] = value
    assert read_plan(plan_file, config).outdated == {}


def test_without_a_plan_nothing_is_planned_and_a_damaged_one_is_refused(config, tmp_path):
    assert read_plan(tmp_path / "none.json", config).host == {}
    for content in ({"format": 1, "stages": []}, {"settings": {}, "stages": [{"model": "m"}]}):
        write_record(tmp_path / "plan.json", content)
        with pytest.raises(UserError, match=r"plan\.json: not a plan of this version"):
            read_plan(tmp_path / "plan.json", config)
