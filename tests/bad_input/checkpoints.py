"""Models that cannot be loaded."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import safetensors.numpy
from bad_input.case import Case
from bad_input.study import Study

from ltpipe.checkpoints.filenames import CONFIG, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS

Damage = Callable[[Path], object]
UP = "model.layers.1.mlp.up_proj.weight"
INDEX = f"{WEIGHTS}.index.json"


def model(damage: Damage) -> Callable[[Path, Study], None]:
    """A copy of a sound model in the folder `model`, damaged."""

    def make(here: Path, study: Study) -> None:
        shutil.copytree(study / "source", here / "model")
        damage(here / "model")

    return make


def edited(name: str, **changes: object) -> Damage:
    """Keys of a JSON file changed."""
    return lambda folder: (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))


def reheaded(change: Callable[[dict], object]) -> Damage:
    """The header of the weights changed, the tensors left as they are."""

    def damage(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + size])
        changed = change(header)
        text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])

    return damage


def indexed(shard: object) -> Damage:
    """In place of the weights an index that names a shard for one tensor."""

    def damage(folder: Path) -> None:
        shutil.move(folder / WEIGHTS, folder / "model-1.safetensors")
        shutil.move(folder / "model-1.safetensors", folder.parent / "outside.safetensors")
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {UP: shard}}))

    return damage


def retensored(change: Callable[[dict], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = safetensors.numpy.load_file(folder / WEIGHTS)
        change(tensors)
        safetensors.numpy.save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return damage


def replaced(name: str, make: Callable[[Path], object]) -> Damage:
    """Something else where a file was."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def gguf(content: bytes) -> Callable[[Path, Study], None]:
    return lambda here, study: (here / "model.gguf").write_bytes(content)


LOAD = "--source %model"
FILE = "%model/model.safetensors: "
HEADER = (FILE, "invalid safetensors header")


def broken(damage: Damage, *words: str) -> Case:
    return Case("checkpoint", LOAD, words, model(damage))


def entry(**changes: object) -> Damage:
    return reheaded(lambda header: header[UP].update(changes))


SOUND_GGUF = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)

CHECKPOINTS = {
    "header-of-exabytes": broken(
        lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 8 + b"{}" * 100), FILE, "or its header is truncated"
    ),
    "header-is-utf16": broken(reheaded(lambda header: json.dumps(header).encode("utf-16")), *HEADER),
    "header-of-a-duplicate-key": broken(
        reheaded(lambda header: (json.dumps(header)[:-1] + f', "{UP}": {{}}}}').encode()), *HEADER
    ),
    "header-is-nested-deeply": broken(reheaded(lambda header: b"[" * 100_000), *HEADER),
    "header-is-a-list": broken(reheaded(lambda header: b"[]"), *HEADER),
    "header-metadata-is-a-number": broken(reheaded(lambda header: header.update(__metadata__=1)), *HEADER),
    "header-of-huge-numbers": broken(reheaded(lambda header: b'{"a": ' + b"9" * 5000 + b"}"), *HEADER),
    "offsets-overlap": broken(entry(data_offsets=[0, 48 * 32 * 4]), *HEADER, "begin at"),
    "offsets-negative": broken(entry(data_offsets=[-6144, 0]), *HEADER, UP),
    "offsets-reversed": broken(entry(data_offsets=[6144, 0]), *HEADER, UP),
    "offsets-are-text": broken(entry(data_offsets=["a", "b"]), *HEADER),
    "offsets-are-fractions": broken(entry(data_offsets=[0.5, 6144.5]), *HEADER),
    "shape-negative": broken(entry(shape=[-48, -32]), *HEADER, UP),
    "shape-of-exabytes": broken(entry(shape=[2**40, 2**40]), *HEADER, UP),
    "shape-is-text": broken(entry(shape="48"), *HEADER, UP),
    "shape-of-booleans": broken(entry(shape=[True, 48 * 32]), *HEADER),
    "dtype-unknown": broken(entry(dtype="F7_E4M2"), FILE, UP, "F7_E4M2", "cannot be read; use"),
    "dtype-is-a-list": broken(entry(dtype=["F32"]), *HEADER),
    "dtype-is-another": broken(entry(dtype="F64"), *HEADER, UP),
    "weights-nan-everywhere": Case(
        "histogram",
        "--checkpoint @nan --criterion magnitude --include *lm_head* --output %out/x",
        ("has 1 weights that are infinite or not a number", "fix the model"),
    ),
    "weights-are-a-folder": broken(replaced(WEIGHTS, Path.mkdir), "has no model.safetensors"),
    "weights-are-a-fifo": broken(replaced(WEIGHTS, os.mkfifo), "has no model.safetensors"),
    "weights-are-a-device": broken(replaced(WEIGHTS, device), "has no model.safetensors"),
    "weights-are-a-symlink-loop": broken(replaced(WEIGHTS, loop), "has no model.safetensors"),
    "weights-are-a-pickle-called-safetensors": broken(
        lambda folder: (folder / WEIGHTS).write_bytes(b"\x80\x04\x95" + bytes(200)), FILE, "not a safetensors file"
    ),
    "weights-are-a-pickle": broken(
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), "pickled weights are never read"
    ),
    "adapter-beside-the-model": broken(
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "contains an adapter",
        "merge the adapter first",
    ),
    "weights-of-another-name": broken(
        lambda folder: (folder / WEIGHTS).rename(folder / "consolidated.safetensors"), "but consolidated.safetensors"
    ),
    "weights-of-two-variants": broken(
        lambda folder: (
            (folder / "model.fp16.safetensors").write_bytes((folder / WEIGHTS).read_bytes()),
            (folder / WEIGHTS).rename(folder / "model.bf16.safetensors"),
        ),
        "model.bf16.safetensors and model.fp16.safetensors",
    ),
    "shards-without-an-index": broken(
        lambda folder: (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors"), "fetch it too"
    ),
    "index-without-metadata": broken(
        lambda folder: (
            (folder / WEIGHTS).rename(folder / "a.safetensors"),
            (folder / INDEX).write_text(json.dumps({"weight_map": {UP: "a.safetensors"}})),
        ),
        INDEX,
        "no metadata",
    ),
    "shard-absent": broken(indexed("model-2.safetensors"), "has no shard model-2.safetensors"),
    "shard-above-the-folder": broken(indexed("../outside.safetensors"), "'../outside.safetensors'", "beside the index"),
    "shard-of-an-absolute-path": broken(indexed("/etc/hostname"), "'/etc/hostname'", "beside the index"),
    "shard-is-the-folder": broken(indexed("."), "'.'", "beside the index"),
    "shard-is-empty-text": broken(indexed(""), "''", "beside the index"),
    "shard-is-a-number": broken(indexed(3), INDEX, "weight_map"),
    "shard-of-a-nul": broken(indexed("a\0b"), "beside the index"),
    "shard-of-a-pickle": broken(indexed("pytorch_model.bin"), "pytorch_model.bin"),
    "index-is-utf16": broken(
        lambda f: ((f / WEIGHTS).unlink(), (f / INDEX).write_bytes("{}".encode("utf-16"))), INDEX, "not valid JSON"
    ),
    "config-is-a-fifo": broken(replaced(CONFIG, os.mkfifo), "has no config.json"),
    "config-is-a-folder": broken(replaced(CONFIG, Path.mkdir), "has no config.json"),
    "config-is-latin-1": broken(
        lambda folder: (folder / CONFIG).write_bytes('{"model_type": "llämä"}'.encode("latin-1")),
        "%model/config.json: not valid JSON",
    ),
    "config-is-nested-deeply": broken(
        lambda folder: (folder / CONFIG).write_text("[" * 100_000), "%model/config.json: not valid JSON"
    ),
    "config-of-huge-numbers": broken(
        lambda folder: (folder / CONFIG).write_text('{"hidden_size": ' + "9" * 5000 + "}"),
        "%model/config.json: not valid JSON",
    ),
    "config-of-another-width": broken(edited(CONFIG, hidden_size=64), "mismatched keys"),
    "config-of-a-negative-width": broken(edited(CONFIG, hidden_size=-32), "models.model.source"),
    "config-of-a-million-layers": broken(edited(CONFIG, num_hidden_layers=10**6), "num_hidden_layers"),
    "config-of-a-far-larger-model": broken(
        edited(CONFIG, hidden_size=10**6), "describes a model with", "does not match"
    ),
    "config-of-exabytes": broken(edited(CONFIG, hidden_size=2**62), "models.model.source"),
    "config-of-nan": broken(edited(CONFIG, rms_norm_eps=float("nan")), "config.json", "NaN"),
    "config-of-an-unknown-activation": broken(edited(CONFIG, hidden_act="eval"), "models.model.source"),
    "config-of-a-dtype-that-is-none": broken(edited(CONFIG, dtype="zork"), "models.model.source"),
    "tokenizer-is-a-fifo": broken(replaced(TOKENIZER, os.mkfifo), "no tokenizer in"),
    "tokenizer-is-latin-1": broken(
        lambda folder: (folder / TOKENIZER).write_bytes(b'{"model": "\xe4"}'), "no tokenizer in"
    ),
    "tokenizer-is-empty": broken(lambda folder: (folder / TOKENIZER).write_bytes(b""), "no tokenizer in"),
    "tokenizer-config-is-a-list": broken(
        lambda folder: (folder / TOKENIZER_CONFIG).write_text("[]"), "no tokenizer in"
    ),
    "tokenizer-of-code": broken(
        edited(TOKENIZER_CONFIG, tokenizer_class="ZorkTokenizer", auto_map={"AutoTokenizer": ["zork.Zork", None]}),
        "no tokenizer in",
    ),
    "model-of-code": broken(
        edited(CONFIG, model_type="zork", auto_map={"AutoConfig": "zork.Zork"}), "models.model.source"
    ),
    "model-is-a-fifo": Case("checkpoint", LOAD, ("'%model' does not exist",), lambda h, s: os.mkfifo(h / "model")),
    "model-is-a-device": Case("checkpoint", "--source /dev/zero", ("'/dev/zero' does not exist",)),
    "model-is-a-symlink-loop": Case("checkpoint", LOAD, ("'%model'", "does not exist"), lambda h, s: loop(h / "model")),
    "model-of-a-very-long-name": Case("checkpoint", "--source " + "m" * 5000, ("does not exist",)),
    "gguf-empty": Case("checkpoint", "--source %model.gguf", ("cannot load '%model.gguf'",), gguf(b"")),
    "gguf-truncated": Case("checkpoint", "--source %model.gguf", ("'%model.gguf'",), gguf(SOUND_GGUF[:10])),
    "gguf-of-three-parts": Case(
        "checkpoint",
        "--source %m-00001-of-00003.gguf",
        ("is one of 3 parts", "llama-gguf-split --merge"),
        lambda h, s: (h / "m-00001-of-00003.gguf").write_bytes(SOUND_GGUF),
    ),
    "gguf-of-nothing": Case("checkpoint", "--source %model.gguf", ("'%model.gguf'",), gguf(SOUND_GGUF)),
    "gguf-of-exabytes": Case(
        "checkpoint", "--source %model.gguf", ("'%model.gguf'",), gguf(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60))
    ),
    "gguf-of-text": Case("checkpoint", "--source %model.gguf", ("'%model.gguf'",), gguf(b"not a model\n" * 9)),
    "gguf-is-a-folder": Case(
        "checkpoint", "--source %model.gguf", ("has no config.json",), lambda h, s: (h / "model.gguf").mkdir()
    ),
    "hub-id-above": Case("checkpoint", "--source hub:../../etc/passwd", ("hub:../../etc/passwd",)),
    "hub-id-of-a-shell": Case("checkpoint", "--source 'hub:a/b;touch x'", ("hub:a/b;touch x",)),
    "package-above": Case("checkpoint", "--source package:numpy/../../../x", ("package:numpy/../../../x",)),
    "package-of-code": Case("checkpoint", "--source package:os.system/x", ("'os.system'", "installed")),
}
