"""Configurations: defaults are filled in, and every mistake is one line that names key, value and what is allowed."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltpipe.pruning.scopes import SCOPES
from ltpipe.pruning.scores import CRITERIA
from ltpipe.runtime.errors import UserError
from ltpipe.workflow.config import check_config

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
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
    filled = check_config(DEFAULT, SCHEMA)
    assert filled["evaluate"]["precision"] == "auto"
    assert filled["evaluate"]["micro_batch"] == "auto"
    assert filled["models"]["smollm2-135m"]["prunable"] == {"preset": "linear", "include": [], "exclude": []}
    assert filled["data"]["speeches"]["documents"] == "evaluation"
    assert filled["threads"] == "auto"
    assert check_config(filled, SCHEMA) == filled


def test_checking_leaves_the_callers_configuration_alone():
    config = deepcopy(DEFAULT)
    check_config(config, SCHEMA)
    assert config == DEFAULT


def test_schema_knows_the_registered_criteria_and_scopes():
    grid = SCHEMA["properties"]["grid"]["properties"]
    assert set(grid["criteria"]["items"]["enum"]) == set(CRITERIA)
    assert set(grid["scopes"]["items"]["enum"]) == set(SCOPES)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("evaluate/sequence_lenght", 5, ["evaluate", "'sequence_lenght'", "did you mean 'sequence_length'"]),
        ("gird", {}, ["'gird'", "did you mean 'grid'"]),
        ("grid/sparsities", [0.1, 1.5], ["grid.sparsities[1]", "1.5", "0 to 1"]),
        ("grid/sparsities", [-0.1], ["grid.sparsities[0]", "-0.1", "0 to 1"]),
        ("grid/sparsities", [0.5, 0.50], ["grid.sparsities", "0.5 is there twice", "each once"]),
        ("grid/sparsities", [1, 1.0], ["grid.sparsities", "twice"]),
        ("grid/sparsities", ["0.5"], ["grid.sparsities[0]", "'0.5'", "numbers"]),
        ("grid/sparsities", [], ["grid.sparsities", "[]"]),
        ("grid/sparsities", None, ["grid", "'sparsities' is missing"]),
        ("grid/criteria", ["magnitud"], ["grid.criteria[0]", "'magnitud'", "magnitude or random"]),
        ("grid/scopes", ["row"], ["grid.scopes[0]", "'row'", "global or layer"]),
        ("grid/seeds", [0, 0], ["grid.seeds", "0 is there twice"]),
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
        ("evaluate/data", ["speech"], ["evaluate.data[0]", "'speech'", "allowed: speeches"]),
        ("evaluate/num_sequences", "many", ["evaluate.num_sequences", "'many'", "or all"]),
        ("evaluate/sequence_length", 1, ["evaluate.sequence_length", "1", "from 2"]),
        ("evaluate/micro_batch", 0, ["evaluate.micro_batch", "0", "auto"]),
        ("evaluate/precision", "int8", ["evaluate.precision", "'int8'"]),
        ("threads", True, ["threads", "True", "auto"]),
    ],
)
def test_mistake_is_one_line(path: str, value: Any, words: list[str]):
    with pytest.raises(UserError) as caught:
        check_config(changed(path, value), SCHEMA)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_several_mistakes_are_counted():
    config = changed("grid/sparsities", [2]) | {"threads": 0}
    with pytest.raises(UserError, match=r"\(and 1 more\)"):
        check_config(config, SCHEMA)
