"""Masks, histograms, scores, sequences, metrics and tables that are damaged or lie."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from bad_input.case import Case
from bad_input.study import Study
from sealed import copied, parts, sealed, table

from ltpipe.runtime.errors import MEND
from ltpipe.runtime.sums import Sums, write_sums

MASKED = "--checkpoint @llama --sequences @text.sequences --baseline @text.baseline --mask %x"
COMPARED = "--masks %x @llama.sparser --layers %layers"
CUT = "--checkpoint @llama --scope global --sparsity 0.5 --histogram %x"
SCORED = "--checkpoint @llama --criterion gradient-norm --scores %x"
DENSE = "--checkpoint @llama --sequences %x"
TABLES = "--baselines @text.baseline --tickets %x"
DAMAGED = ("%x: damaged", MEND)


def reheaded(name: str, change: Callable[[dict, dict], object]) -> Callable[[Path, Study], None]:
    """A file of the study with its metadata (first argument) and tensors' entries changed."""

    def make(here: Path, study: Study) -> None:
        header, payload = parts((study / name).read_bytes())
        change(header["__metadata__"], header)
        (here / "x").write_bytes(sealed(header, payload))

    return make


def said(name: str, **metadata: str | None) -> Callable[[Path, Study], None]:
    """A file of the study that says something else of itself; None says nothing."""

    def change(given: dict, _: dict) -> None:
        given.update(metadata)
        for key in [key for key, value in metadata.items() if value is None]:
            del given[key]

    return reheaded(name, change)


def flipped(name: str, place: int) -> Callable[[Path, Study], None]:
    def make(here: Path, study: Study) -> None:
        content = bytearray((study / name).read_bytes())
        content[place] ^= 1
        (here / "x").write_bytes(content)

    return make


def renamed(old: str, new: str) -> Callable[[Path, Study], None]:
    """A mask of a tensor of another name."""

    def change(metadata: dict, header: dict) -> None:
        header[new] = header.pop(old)
        for key in ("shapes", "kept"):
            content = json.loads(metadata[key])
            content[new] = content.pop(old)
            metadata[key] = json.dumps(content)

    return reheaded("llama.mask", change)


def edited(name: str, **changes: object) -> Callable[[Path, Study], None]:
    return lambda here, study: copied(study / name, here / "x", **changes)


def manifest(**changes: object) -> Callable[[Path, Study], None]:
    """A checkpoint folder `x` with nothing but a changed manifest."""

    def make(here: Path, study: Study) -> None:
        (here / "x").mkdir()
        copied(study / "llama/manifest.json", here / "x/manifest.json", **changes)

    return make


def ending(name: str, last: bytes) -> Callable[[Path, Study], None]:
    """A file of the study whose last tensor ends with other bytes."""

    def make(here: Path, study: Study) -> None:
        header, payload = parts((study / name).read_bytes())
        (here / "x").write_bytes(sealed(header, payload[: -len(last)] + last))

    return make


def plain_mask(here: Path, study: Study) -> None:
    """As other tools write masks: one bool tensor a weight."""
    safetensors.numpy.save_file({"w": np.ones((3, 4), np.bool_)}, here / "x")


def weights_as_mask(here: Path, study: Study) -> None:
    """A file of weights, named in place of one of masks."""
    weights = safetensors.numpy.load_file(study / "llama/model.safetensors")
    safetensors.numpy.save_file(weights, here / "x")


def pickled_mask(here: Path, study: Study) -> None:
    """A mask as torch.save writes it."""
    import torch

    torch.save({"w": torch.ones(3, 4, dtype=torch.bool)}, here / "x")


def one_more(here: Path, study: Study) -> None:
    """A histogram that counts one weight more than there is."""
    header, payload = parts((study / "llama.histogram").read_bytes())
    begin, _ = header["counts"]["data_offsets"]
    count = struct.pack("<q", 1 + struct.unpack_from("<q", payload, begin)[0])
    (here / "x").write_bytes(sealed(header, payload[:begin] + count + payload[begin + 8 :]))


def changed_report(change: Callable[[Path], object], name: str = "report") -> Callable[[Path, Study], object]:
    """A copy of a report whose table of tickets, in CSV alone, is changed."""

    def make(here: Path, study: Study) -> None:
        shutil.copytree(study / name, here / "x")
        sums = here / "x/SHA256SUMS"
        listed = Sums.read(sums).digests
        write_sums(sums, {file: digest for file, digest in listed.items() if not file.endswith(".parquet")})
        change(here / "x/tickets.csv")

    return make


def changed_table(change: Callable[[str], str]) -> Callable[[Path, Study], object]:
    return changed_report(lambda path: table(path, change(path.read_text())))


UP = "model.layers.1.mlp.up_proj.weight"

ARTEFACTS = {
    "mask-of-numbers": Case("evaluate", MASKED, ("%x: not a mask: '", "is F32; use a mask"), weights_as_mask),
    "mask-of-bools-of-another-model": Case("evaluate", MASKED, ("%x: 'w' is not a parameter of Llama",), plain_mask),
    "mask-that-is-a-pickle": Case("evaluate", MASKED, ("%x: a pickle", "safetensors.torch.save_file"), pickled_mask),
    "histogram-of-the-users-own": Case(
        "mask", CUT, ("%x: not a histogram but another safetensors file, with 1",), plain_mask
    ),
    "mask-is-a-fifo": Case("evaluate", MASKED, ("%x: is a pipe, a device",), lambda h, s: os.mkfifo(h / "x")),
    "mask-is-a-folder": Case("evaluate", MASKED, ("%x: is a folder",), lambda h, s: (h / "x").mkdir()),
    "mask-is-a-symlink-loop": Case(
        "evaluate", MASKED, ("%x: no such file",), lambda h, s: (h / "x").symlink_to(h / "x")
    ),
    "mask-of-a-flipped-bit": Case("evaluate", MASKED, (*DAMAGED, "checksum"), flipped("llama.mask", -1)),
    "mask-of-another-format": Case("evaluate", MASKED, ("%x: a mask in format 9",), said("llama.mask", format="9")),
    "mask-without-shapes": Case("evaluate", MASKED, (*DAMAGED, "shapes"), said("llama.mask", shapes=None)),
    "mask-of-shapes-that-are-none": Case("evaluate", MASKED, DAMAGED, said("llama.mask", shapes="[1, 2")),
    "mask-of-text-shapes": Case("evaluate", MASKED, DAMAGED, said("llama.mask", shapes='{"a": "b"}')),
    "mask-of-no-weights": Case("evaluate", MASKED, DAMAGED, said("llama.mask", shapes="{}", kept="{}")),
    "mask-of-other-counts": Case("evaluate", MASKED, DAMAGED, said("llama.mask", kept="{}")),
    "mask-of-a-word-for-a-sparsity": Case(
        "overlap", COMPARED, (*DAMAGED, "sparsity 'half'"), said("llama.mask", sparsity="half")
    ),
    "mask-of-sparsity-nan": Case("overlap", COMPARED, DAMAGED, said("llama.mask", sparsity="nan")),
    "mask-of-a-billion-decimals": Case(
        "validation",
        "--masks %x --checkpoint @llama",
        (*DAMAGED, "at most 40 decimals"),
        said("llama.mask", sparsity="1e-999999999"),
    ),
    "mask-of-a-text-seed": Case("overlap", COMPARED, DAMAGED, said("llama.mask", seed='"abc"')),
    "mask-of-a-fractional-seed": Case("overlap", COMPARED, (*DAMAGED, "seed"), said("llama.mask", seed="0.5")),
    "mask-of-another-tensor": Case("evaluate", MASKED, ("%x: masks '../../x' of shape",), renamed(UP, "../../x")),
    "mask-exported-of-another-tensor": Case(
        "smaller", "--checkpoint @llama --mask %x", ("%x: masks '/etc/passwd'",), renamed(UP, "/etc/passwd")
    ),
    "histogram-of-other-counts": Case("mask", CUT, (*DAMAGED, "add up"), one_more),
    "histogram-of-text-bits": Case("mask", CUT, DAMAGED, said("llama.histogram", bits="many")),
    "histogram-of-bits-that-are-none": Case(
        "mask", CUT, ("counted on other weights",), said("llama.histogram", bits="-3")
    ),
    "histogram-of-no-names": Case("mask", CUT, ("counted on other weights",), said("llama.histogram", names="[]")),
    "histogram-of-an-unknown-criterion": Case(
        "mask", CUT, ("criterion 'beauty'",), said("llama.histogram", criterion="beauty")
    ),
    "histogram-of-a-text-seed": Case("mask", CUT, DAMAGED, said("llama.histogram", seed='"abc"')),
    "histogram-truncated": Case(
        "mask",
        CUT,
        ("%x: ", "truncated or damaged"),
        lambda h, s: (h / "x").write_bytes((s / "llama.histogram").read_bytes()[:-7]),
    ),
    "scores-of-another-criterion": Case(
        "histogram", SCORED, ("%x: scores of criterion 'wanda'",), said("scores", criterion="wanda")
    ),
    "scores-of-another-model": Case(
        "histogram", SCORED, ("%x: scores of another model",), said("scores", checkpoint="0" * 64)
    ),
    "scores-of-a-sign-that-is-none": Case("histogram", SCORED, DAMAGED, said("scores", signed="perhaps")),
    "scores-of-nan": Case(
        "histogram",
        SCORED,
        ("infinite or not a number",),
        ending("scores", struct.pack("<f", np.nan)),
    ),
    "scores-are-a-mask": Case("histogram", SCORED.replace("%x", "@llama.mask"), ("@llama.mask: not a set of scores",)),
    "sequences-of-another-tokenizer": Case(
        "evaluate", DENSE, ("%x: ", "tokenizer"), said("text.sequences", tokenizer="0" * 64)
    ),
    "sequences-of-a-text-count": Case("evaluate", DENSE, DAMAGED, said("text.sequences", available="many")),
    "sequences-of-tokens-beyond-the-vocabulary": Case(
        "evaluate",
        DENSE,
        ("%x: ", "token 2147483647", "96"),
        ending("text.sequences", struct.pack("<i", 2**31 - 1)),
    ),
    "sequences-of-negative-tokens": Case(
        "evaluate",
        DENSE,
        (*DAMAGED, "token -1"),
        ending("text.sequences", struct.pack("<i", -1)),
    ),
    "manifest-of-text-shapes": Case(
        "validation",
        "--masks @llama.mask --checkpoint %x",
        ("%x/manifest.json: ",),
        manifest(tensors={"a": {"dtype": "F32", "shape": "ab", "sha256": "", "module": "x"}}),
    ),
    "manifest-of-dtypes-that-are-none": Case(
        "validation",
        "--masks @llama.mask --checkpoint %x",
        ("%x/manifest.json: ",),
        manifest(tensors={"../x": {"dtype": "Q", "shape": [1], "sha256": "", "module": "x"}}),
    ),
    "manifest-of-numbers-for-tensors": Case(
        "validation", "--masks @llama.mask --checkpoint %x", ("%x/manifest.json: ",), manifest(tensors=3)
    ),
    "manifest-nested-deeply": Case(
        "validation",
        "--masks @llama.mask --checkpoint %x",
        ("%x/manifest.json: not valid JSON",),
        lambda h, s: [(h / "x").mkdir(), (h / "x/manifest.json").write_text("[" * 100_000)],
    ),
    "metrics-of-nan": Case("tables", TABLES, ("%x: not valid JSON", "NaN"), edited("ticket", loss=float("nan"))),
    "metrics-of-infinity": Case("tables", TABLES, ("%x: ",), edited("ticket", loss=float("inf"))),
    "metrics-of-a-huge-number": Case("tables", TABLES, ("%x: ",), lambda h, s: (h / "x").write_text('{"loss": 1e999}')),
    "metrics-of-a-negative-sparsity": Case("tables", TABLES, ("%x: ", "sparsity"), edited("ticket", sparsity=-1)),
    "metrics-of-another-key": Case("tables", TABLES, ("%x: ", "zork"), edited("ticket", zork=1)),
    "metrics-of-a-key-twice": Case(
        "tables",
        TABLES,
        ("%x: not valid JSON", "'loss' appears twice"),
        lambda h, s: (h / "x").write_text('{"loss": 1, ' + (s / "ticket").read_text().lstrip()[1:]),
    ),
    "metrics-utf16": Case(
        "tables",
        TABLES,
        ("%x: not valid JSON",),
        lambda h, s: (h / "x").write_bytes((s / "ticket").read_text().encode("utf-16")),
    ),
    **{
        f"table-{name}": Case("print_table", "--report %x", (f"%x/tickets.csv: {words}",), make)
        for name, words, make in (
            ("of-words-for-numbers", "not a table of tickets", changed_table(lambda t: t.replace("0.5,", "half,"))),
            ("without-columns", "not a table of tickets", changed_table(lambda t: t[t.index(",") :])),
            ("of-nul-bytes", "damaged: does not match", changed_report(lambda path: path.write_bytes(bytes(99)))),
            ("that-is-lost", "missing, ", changed_report(lambda path: path.unlink())),
            ("that-is-a-fifo", "missing, ", changed_report(lambda path: (path.unlink(), os.mkfifo(path)))),
        )
    },
}
