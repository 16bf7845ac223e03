"""Tensors that a source has with the same bytes are read there, and any later change of them is noticed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from loading import KEY, refused
from tiny import ARCHITECTURES, save_tiny, tiny_model

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.header import read_header
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.originals import stored_anew
from ltpipe.runtime.errors import DamagedFileError
from ltpipe.runtime.sources import Source


def loaded(source: Path, folder: Path, dtype: str = "auto", *, in_place: bool = True) -> Checkpoint:
    load_checkpoint(Source(str(source), KEY), None, dtype, folder, in_place=in_place)
    return Checkpoint.open(folder)


def stored(checkpoint: Checkpoint) -> set[str]:
    return {name for name, spec in checkpoint.weights.specs.items() if spec.file is None}


def converted(name: str) -> bool:
    """Whether transformers makes this tensor from several in the file: experts are fused."""
    return ".experts." in name


@pytest.mark.parametrize("shard", ["5GB", "10KB"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_what_changes_is_stored(architecture, shard, tmp_path):
    source = save_tiny(architecture, tmp_path / "source", shard=shard)
    copy, in_place = (loaded(source, tmp_path / str(way), in_place=way) for way in (False, True))
    assert in_place.manifest == copy.manifest
    assert in_place.weights.specs.keys() == copy.weights.specs.keys()
    for name in copy.weights.specs:
        assert np.array_equal(in_place.weights.array(name), copy.weights.array(name)), name
    assert stored(copy) == set(copy.weights.specs)
    assert stored(in_place) == {name for name in copy.weights.specs if converted(name)}
    wanted = {name: (spec.dtype, spec.shape) for name, spec in copy.weights.specs.items()}
    assert stored_anew(source, wanted) == stored(in_place), "what is planned"
    assert read_header(in_place.folder / WEIGHTS).nbytes == copy.manifest.nbytes


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_dtype_is_stored(dtype, tmp_path):
    checkpoint = loaded(save_tiny("llama", tmp_path / "source"), tmp_path / "folder", dtype)
    assert stored(checkpoint) == set(checkpoint.weights.specs)


def test_tensors_that_are_not_aligned_are_stored(tmp_path):
    """Tools may pack tensors of any size in any order."""
    source = save_tiny("llama", tmp_path / "source")
    tensors = {name: value.numpy() for name, value in tiny_model("llama").state_dict().items()}
    header, body = {"first": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}, b"abc"
    for name, value in tensors.items():
        place = [len(body), len(body) + value.nbytes]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": place}
        body += value.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (source / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + body)
    checkpoint = loaded(source, tmp_path / "folder")
    assert stored(checkpoint) == set(checkpoint.weights.specs)
    for name in checkpoint.weights.specs:
        assert np.array_equal(checkpoint.weights.array(name), tensors[name])


def other_value(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit": (other_value, "does not match its checksum"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "bytes and has"),
    "shorter": (lambda path: path.write_bytes(path.read_bytes()[:-4]), "bytes and has"),
    "gone": (Path.unlink, "it is gone"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "it is gone"),
    "retrained": (
        lambda path: safetensors.torch.save_file(
            {name: value + 1 for name, value in safetensors.torch.load_file(path).items()}, path, {"format": "pt"}
        ),
        "does not match its checksum",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_later_is_noticed(change, tmp_path):
    source = save_tiny("llama", tmp_path / "source")
    loaded(source, tmp_path / "folder")
    changed, said = CHANGES[change]
    changed(source / WEIGHTS)
    with pytest.raises(DamagedFileError) as caught:
        Checkpoint.open(tmp_path / "folder").weights.check_all()
    message = str(caught.value)
    assert message.startswith(f"{source / WEIGHTS}: has changed since {tmp_path / 'folder' / WEIGHTS} was made")
    assert said in message
    assert "\n" not in message


def test_a_study_moves_with_its_models(tmp_path, monkeypatch):
    study = tmp_path / "study"
    save_tiny("llama", study / "models/m")
    monkeypatch.chdir(study)
    loaded(Path("models/m"), Path("results/m"))
    monkeypatch.chdir(tmp_path)
    study.rename(tmp_path / "moved")
    checkpoint = Checkpoint.open(Path("moved/results/m"))
    checkpoint.weights.check_all()
    assert not stored(checkpoint)


def test_a_study_moves_without_its_models(tmp_path, monkeypatch):
    save_tiny("llama", tmp_path / "m")
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    loaded(Path("../m"), Path("results/m"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "study").rename(tmp_path / "deep/moved")
    Checkpoint.open(Path("deep/moved/results/m")).weights.check_all()


def test_a_study_behind_a_link(tmp_path, monkeypatch):
    """Results are often on another disk, behind a link in the study's folder."""
    save_tiny("llama", tmp_path / "study/m")
    (tmp_path / "disk/results").mkdir(parents=True)
    (tmp_path / "study/results").symlink_to(tmp_path / "disk/results")
    monkeypatch.chdir(tmp_path / "study")
    loaded(Path("m"), Path("results/c")).weights.check_all()


def test_a_file_of_another_source_is_not_trusted(tmp_path):
    """Only bytes that are equal count, not names and shapes."""
    source = save_tiny("llama", tmp_path / "source")
    wrong = {name: value + 1 for name, value in tiny_model("llama").state_dict().items()}
    safetensors.torch.save_file(wrong, source / "another.safetensors", {"format": "pt"})
    shutil.copy(source / WEIGHTS, source / "zz-copy.safetensors")
    checkpoint = loaded(source, tmp_path / "folder")
    files = {spec.file.name for spec in checkpoint.weights.specs.values() if spec.file}
    assert "another.safetensors" not in files
    assert not stored(checkpoint)


def test_a_checkpoint_with_its_tensors_elsewhere_is_no_source(tmp_path):
    source = save_tiny("llama", tmp_path / "source")
    loaded(source, tmp_path / "folder")
    shutil.copy(source / "tokenizer.json", tmp_path / "folder")
    refused(tmp_path / "folder", tmp_path / "again", KEY, "checkpoint of ltpipe", str(source / WEIGHTS))


def test_a_damaged_list_is_damage(tmp_path):
    folder = loaded(save_tiny("llama", tmp_path / "source"), tmp_path / "folder").folder
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content.replace(b"source", b"sourc3", 1))
    with pytest.raises(DamagedFileError, match="its header does not match its checksum"):
        _ = Checkpoint.open(folder).weights
    assert Manifest.read(folder / MANIFEST)
