"""Random damage: what is read is either accepted or refused in one line, and nothing else is ever raised.

LTPIPE_FUZZ multiplies the number of examples; `make test-bad-input` sets it.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from bad_input.configurations import sound, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import parts, sealed

from ltpipe.analysis.overlap_tables import overlap_tables
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.documents import read_documents
from ltpipe.data.images import load_images
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.metrics import Metrics
from ltpipe.pruning.histogram import KeyHistogram
from ltpipe.pruning.masks import read_mask
from ltpipe.pruning.scorefile import ScoreFile
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_json, read_record, write_record
from ltpipe.runtime.sources import Source
from ltpipe.training.record import LearningRecord
from ltpipe.training.state import read_state
from ltpipe.training.task import read_task
from ltpipe.workflow import grid
from ltpipe.workflow.config import check_config
from ltpipe.workflow.configfile import read_config

fuzz = settings(max_examples=40 * int(os.environ.get("LTPIPE_FUZZ", "1")), deadline=None)

ODD = ["", "nan", "-0", "1e-9999999", "../x", "a\n", "\0", "٣", "$(x)", "--x", "{x}", "null", "[]", "x" * 300]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([2**31, 2**63, -(2**70), 10**400])
    | st.floats()
    | st.sampled_from(ODD)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@contextlib.contextmanager
def one_line_or_none():
    """The body succeeds, or raises a UserError of one line that can be printed."""
    try:
        yield
    except UserError as error:
        said = str(error)
    else:
        said = "nothing"
    assert len(said.splitlines()) == 1


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to every value inside a value."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in below for place in places(each, (*path, key)))]


def mutated(data: st.DataObject, value: Any, values: st.SearchStrategy) -> Any:
    """A copy of a value with a value inside it replaced or removed, or a key beside it added."""
    changed = {"top": deepcopy(value)}
    *parents, last = data.draw(st.sampled_from([("top", *place) for place in places(value)]))
    node = changed
    for key in parents:
        node = node[key]
    action = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if action == "remove" and parents:
        del node[last]
    elif action == "add" and isinstance(node, dict) and parents:
        node[data.draw(st.text(max_size=5))] = data.draw(values)
    else:
        node[last] = data.draw(values)
    return changed["top"]


@pytest.mark.parametrize("base", [sound, trained])
@fuzz
@given(data=st.data())
def test_a_configuration_with_any_value_anywhere(base, study, data):
    config = mutated(data, base(study), VALUES)
    with one_line_or_none():
        checked = check_config(config)
        # What is accepted makes artefacts, all of them below results and of names that a file system takes.
        names = [*(ticket.named(grid.TICKET) for ticket in grid.tickets(checked)), *grid.baselines(checked)]
        for name in names:
            parts = Path(name).parts
            assert parts[0] == "results"
            assert ".." not in parts
            assert all(len(part.encode()) < 220 and part.isprintable() for part in parts)


@fuzz
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_configuration(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.yaml")
        path.write_bytes(content)
        with one_line_or_none():
            assert isinstance(read_config(path), dict)
        with one_line_or_none():
            assert isinstance(read_json(path), dict)


@fuzz
@given(st.text(max_size=40), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"]))
def test_any_text_in_any_encoding(text, encoding):
    lines = "\n".join([json.dumps({"text": text}), json.dumps(text)])
    for name, content in {"t.txt": text, "t.jsonl": lines, "t.csv": text}.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(content.encode(encoding, "replace"))
            with one_line_or_none():
                if name == "t.csv":
                    load_images(str(path), 1, 1, 0)
                else:
                    read_documents(Source(str(path)), "**/*", "text", "all")


@fuzz
@given(
    st.text(max_size=12) | st.floats().map(str) | st.from_regex(r"-?[0-9]*\.?[0-9]*(e-?[0-9]{1,12})?", fullmatch=True)
)
def test_any_text_as_a_sparsity(text):
    with one_line_or_none():
        assert 0 <= Sparsity.of(text).fraction <= 1


def overlapping(path: Path) -> None:
    overlap_tables("m", [path])


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "mask": ("llama.mask", read_mask),
    "masks-compared": ("llama.mask", overlapping),
    "histogram": ("llama.histogram", KeyHistogram.read),
    "scores": ("scores", ScoreFile),
    "sequences": ("text.sequences", TokenSequences.read),
    "task": ("task", read_task),
    "state": ("sgd", read_state),
    "weights": ("llama/model.safetensors", TensorFile),
}


@pytest.mark.parametrize("kind", READERS)
@fuzz
@given(data=st.data())
def test_an_artefact_with_any_header(kind, study, data):
    name, read = READERS[kind]
    header, payload = parts((study / name).read_bytes())
    if data.draw(st.booleans()) and "kind" in header["__metadata__"]:
        key = data.draw(st.sampled_from(sorted(header["__metadata__"])))
        given_text = header["__metadata__"][key]
        with contextlib.suppress(ValueError):
            given_text = json.dumps(mutated(data, json.loads(given_text), VALUES))
        header["__metadata__"][key] = data.draw(st.just(given_text) | st.sampled_from(ODD) | st.text(max_size=9))
    else:
        header = mutated(data, header, VALUES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(sealed(header, payload))
        with one_line_or_none():
            read(path)


RECORDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "metrics": ("ticket", Metrics.read),
    "record": ("record", LearningRecord.read),
    "manifest": ("llama/manifest.json", Manifest.read),
}


@pytest.mark.parametrize("kind", RECORDS)
@fuzz
@given(data=st.data())
def test_a_record_with_any_value_anywhere(kind, study, data):
    name, read = RECORDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        content = mutated(data, read_record(study / name), VALUES)
        try:
            write_record(path, content)
        except (ValueError, TypeError, AttributeError):  # nothing that a record can hold
            path.write_text(json.dumps(content))
        with one_line_or_none():
            read(path)
