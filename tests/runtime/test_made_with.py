"""Artefacts say what they were made with, and readers refuse those that do not fit the configuration."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ltpipe.checkpoints.tensorfile import artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.runtime.errors import OtherSettingsError
from ltpipe.runtime.frames import check_table, csv_bytes, number, read_table, write_table
from ltpipe.runtime.jsonfiles import read_record, write_record
from ltpipe.runtime.made_with import VARIABLE, check_made_with
from ltpipe.runtime.sums import sums_file

TABLE = pd.DataFrame({"loss": [0.5]})
COLUMNS = {"loss": number("a loss")}


def write_artefact(path: Path) -> None:
    write_tensors(path, [TensorData.of("x", np.zeros(2, np.int32))], {"kind": "set of zeros", "format": "1"})


def read_artefact(path: Path) -> None:
    with artefact(path, "set of zeros", "1") as file:
        assert file.array("x").tolist() == [0, 0]


def read_csv(path: Path) -> None:
    check_table(path, "a table", "tables")
    pd.testing.assert_frame_equal(read_table(path, COLUMNS, "a table"), TABLE)


def read_plain_record(path: Path) -> None:
    assert read_record(path) == {"loss": 0.5}


KINDS = {
    "tensors": (write_artefact, read_artefact),
    "record": (lambda path: write_record(path, {"loss": 0.5}), read_plain_record),
    "csv": (lambda path: write_table(path, csv_bytes(TABLE)), read_csv),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Functions that write and read a file, each told what the configuration asks for, None for nothing."""
    path = tmp_path / "artefact"
    functions = KINDS[request.param]

    def told(function: Callable[[Path], None], asked: Any) -> Path:
        if asked is None:
            monkeypatch.delenv(VARIABLE, raising=False)
        else:
            monkeypatch.setenv(VARIABLE, json.dumps(asked, ensure_ascii=False))
        function(path)
        return path

    return tuple(lambda asked, function=function: told(function, asked) for function in functions)


MADE = {"evaluate": {"num_sequences": 16, "sequence_length": 8}, "models": {"a.b": {"include": ["*é*"], "exclude": []}}}


def changed(**keys: Any) -> dict[str, Any]:
    return {**MADE, "evaluate": {**MADE["evaluate"], **keys}}


def test_what_fits_is_read(kind):
    write, read = kind
    write(MADE)
    read(MADE)
    read({**changed(top_k=3), "score": {"iterations": 4}})  # a stage may depend on more than what it reads
    read(None)  # by hand nothing is compared


LESS = {"evaluate": MADE["evaluate"]}
SWAPPED = {**MADE, "models": {"a.b": {"include": [], "exclude": ["*é*"]}}}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (changed(num_sequences="all"), "evaluate.num_sequences 16, but the configuration asks for all;"),
        (changed(num_sequences=8, sequence_length=16), "evaluate.num_sequences 16, but the configuration asks for 8;"),
        (changed(num_sequences=True), "evaluate.num_sequences 16, but the configuration asks for true;"),
        (changed(num_sequences="16"), "evaluate.num_sequences 16, but the configuration asks for 16;"),
        (SWAPPED, 'models.a.b.include ["*é*"], but the configuration asks for [];'),
        (LESS, 'models.a.b.include ["*é*"], which the configuration does not ask for;'),
    ],
)
def test_what_was_made_with_other_settings_is_refused_by_name(kind, asked, message):
    write, read = kind
    path = write(MADE)
    with pytest.raises(OtherSettingsError) as error:
        read(asked)
    assert str(error.value) == f"{path}: made with {message} delete it and run again, or run snakemake --forceall once"


def test_what_says_nothing_of_itself_is_refused_where_somebody_asks(kind):
    write, read = kind
    write(None)
    read(None)
    with pytest.raises(OtherSettingsError, match="artefact: does not record the settings it was made with; delete"):
        read(MADE)


def test_a_table_can_still_be_checked_by_sha256sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, json.dumps(MADE))
    path = tmp_path / "table.csv"
    write_table(path, csv_bytes(TABLE))
    command = ["sha256sum", "--check", "--strict", sums_file(path).name]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout == "table.csv: OK\n"


TASK = [["kind", "spirals"], ["points", 600]]


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ([["kind", "spirals"], ["points", 60]], "task.points 600, but the configuration asks for 60;"),
        ([["kind", "spirals"]], "task.points 600, but the configuration asks for none;"),
        ([*TASK, ["seed", 3]], "task.seed left out, but the configuration asks for 3;"),
        (
            TASK[::-1],
            'task [["kind", "spirals"], ["points", 600]], but the configuration asks for [["points", 600], ["kind"',
        ),
        ([], "task.kind spirals, but the configuration asks for none;"),
    ],
)
def test_values_that_are_mappings_are_compared_as_a_whole(tmp_path: Path, now, message):
    """A part of one is another value: {} is not what {multiple: 3} asks for."""
    with pytest.raises(OtherSettingsError) as error:
        check_made_with(tmp_path, {"task": TASK}, {"task": now})
    assert f": made with {message}" in str(error.value)


def test_what_is_asked_for_can_be_said_by_the_caller(tmp_path: Path):
    check_made_with(tmp_path, {"a": 1}, {"a": 1, "b": 2})
    with pytest.raises(OtherSettingsError, match="made with a 1, but the configuration asks for 2"):
        check_made_with(tmp_path, {"a": 1}, {"a": 2})
