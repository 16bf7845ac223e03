"""Manifests: round trips, what the fingerprint is over, and refusal of what is not one."""

import json
from dataclasses import replace

import pytest

from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.jsonfiles import read_record, write_record

ENTRIES = {
    "model.embed.weight": TensorEntry("BF16", (5, 2), "1" * 64, "Embedding"),
    "model.layers.0.weight": TensorEntry("BF16", (2, 3), "2" * 64, "Linear"),
    "model.layers.0.inverse": TensorEntry("F32", (7,), "3" * 64, "Rotary", buffer=True),
    "model.norm.weight": TensorEntry("BF16", (2,), "4" * 64, "RMSNorm"),
    "model.scale": TensorEntry("F32", (), "5" * 64, "Model"),
}
MANIFEST = Manifest("Zork", "hub:a/b commit 12 «ü»", "model.layers", ENTRIES, {"head.weight": "model.embed.weight"})


def with_entry(name: str, **changes: object) -> Manifest:
    return replace(MANIFEST, tensors={**ENTRIES, name: replace(ENTRIES[name], **changes)})


def test_round_trip(tmp_path):
    MANIFEST.write(tmp_path / "first")
    again = Manifest.read(tmp_path / "first")
    assert again == MANIFEST
    again.write(tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert json.loads((tmp_path / "first").read_text())["fingerprint"] == MANIFEST.fingerprint


def test_fingerprint_is_stable():
    """It is in every mask ever written: a change of this number makes them all masks of another model."""
    assert MANIFEST.fingerprint == "6e0e8860c124cfa33aef8b92e172f11d3dccffc8a44e5307c369e2c24d9f2b76"


@pytest.mark.parametrize(
    "changed",
    [
        with_entry("model.norm.weight", dtype="F16"),
        with_entry("model.norm.weight", shape=(1, 2)),
        with_entry("model.norm.weight", sha256="0" * 64),
        replace(MANIFEST, tensors={name.replace("norm", "form"): entry for name, entry in ENTRIES.items()}),
        replace(MANIFEST, tensors={name: entry for name, entry in ENTRIES.items() if "norm" not in name}),
        replace(MANIFEST, tied={}),
        replace(MANIFEST, tied={"head.weight": "model.layers.0.weight"}),
        replace(MANIFEST, tied={"foot.weight": "model.embed.weight"}),
    ],
    ids=["dtype", "shape", "bits", "name", "fewer", "untied", "tied-otherwise", "alias"],
)
def test_contents_are_in_the_fingerprint(changed):
    assert changed.fingerprint != MANIFEST.fingerprint


@pytest.mark.parametrize(
    "same",
    [
        replace(MANIFEST, source="elsewhere"),
        replace(MANIFEST, tensors=dict(reversed(ENTRIES.items()))),
        replace(MANIFEST, architecture="Gnusto"),
    ],
    ids=["source", "order", "architecture"],
)
def test_where_it_came_from_is_not(same):
    assert same.fingerprint == MANIFEST.fingerprint


def test_sizes():
    assert [entry.size for entry in ENTRIES.values()] == [10, 6, 7, 2, 1]
    assert MANIFEST.parameters == 10 + 6 + 2 + 1  # the buffer is none, the tied one is there once


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("model.layers.0.weight", True),
        ("model.layers.10.a.b", True),
        ("model.layers_norm.weight", False),
        ("model.norm.weight", False),
        ("encoder.model.layers.0.weight", False),
    ],
)
def test_in_blocks(name, inside):
    assert MANIFEST.in_blocks(name) == inside


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format=2), "manifest format 2"),
        (lambda c: c.pop("format"), "manifest format None"),
        (lambda c: c.pop("fingerprint"), "fingerprint"),
        (lambda c: c.update(fingerprint="0" * 64), "fingerprint"),
        (lambda c: c["tensors"]["model.norm.weight"].update(sha256="0" * 64), "fingerprint"),
        (lambda c: c["tensors"]["model.norm.weight"].update(shape=[3]), "fingerprint"),
        (lambda c: c["tensors"].pop("model.norm.weight"), "fingerprint"),
        (lambda c: c["tied"].clear(), "fingerprint"),
        (lambda c: c.pop("tensors"), "not a checkpoint manifest"),
        (lambda c: c.update(tensors=[1]), "not a checkpoint manifest"),
        (lambda c: c.update(tensors={"a": 1}), "not a checkpoint manifest"),
        (lambda c: c["tensors"]["model.norm.weight"].pop("shape"), "not a checkpoint manifest"),
        (lambda c: c["tensors"]["model.norm.weight"].update(shape=3), "not a checkpoint manifest"),
        (lambda c: c["tensors"]["model.norm.weight"].update(colour="red"), "not a checkpoint manifest"),
        (lambda c: c.pop("blocks"), "not a checkpoint manifest"),
        (lambda c: c.update(blocks=7), "not a checkpoint manifest"),
        (lambda c: c.update(further=[7]), "not a checkpoint manifest"),
        (lambda c: c["tensors"]["model.layers.0.weight"].update(matrices=[1, 2]), "not a checkpoint manifest"),
        (lambda c: c["tensors"]["model.layers.0.weight"].update(matrices=[1, 2, 4]), "not a checkpoint manifest"),
        (lambda c: c.update(tied=None), "not a checkpoint manifest"),
        (lambda c: c.update(files={"config.json": 7}), "not a checkpoint manifest"),
        (lambda c: c.update(colour="red"), "not a checkpoint manifest"),
    ],
)
def test_damaged(change, words, tmp_path):
    path = tmp_path / "manifest.json"
    MANIFEST.write(path)
    content = read_record(path)
    change(content)
    write_record(path, content)
    with pytest.raises(DamagedFileError) as caught:
        Manifest.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


def test_no_manifest(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Manifest.read(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text('{"format": 1, ')
    with pytest.raises(DamagedFileError, match="not valid JSON"):
        Manifest.read(tmp_path / "manifest.json")
