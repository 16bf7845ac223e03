"""Responses to made-up requests against a plain forward pass: no harness is needed to answer."""

import json

import numpy as np
import pytest
import torch
from structured import make
from tiny import save_tiny
from transformers import AutoModelForCausalLM

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.exporting.formats import export_ticket
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.sources import Source
from ltpipe.tasks import respond as responding
from ltpipe.tasks.answers import Responses
from ltpipe.tasks.requests import Generation, Requests
from ltpipe.tasks.respond import Rows, respond

CPU = ComputeSettings(device="cpu", threads=1)
NAMES = {"model": "m", "task": "t"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("responses")
    load_checkpoint(Source(str(save_tiny("llama", folder / "source"))), None, "auto", folder / "model")
    make(folder / "model", "layer", "0.5", folder / "mask")
    export_ticket("hf", folder / "mask", Checkpoint.open(folder / "model"), folder / "ticket")
    return folder


def made(study, place, windows, generations=()):
    tokenizer = Checkpoint.open(study / "model").manifest.files[TOKENIZER]
    scored = len({request for request, _, predicted in windows if predicted})
    kinds = [("loglikelihood", scored), ("generate_until", len(generations))]
    Requests.of(windows, kinds, generations, "asked", tokenizer, {"task": "t"}).write(place)
    return place


def some_windows(count=60, seed=0):
    """Of all lengths; some share their row, some requests have two windows."""
    draw, windows = np.random.default_rng(seed), []
    for request in range(count):
        tokens = draw.integers(0, 96, draw.integers(2, 40)).tolist()
        windows.append((request, tokens, int(draw.integers(1, len(tokens)))))
        if request % 3 == 0:
            windows.append((request, [*tokens[:-1], int(draw.integers(0, 96))], 1))
    return windows


def expected(folder, windows):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    sums, greedy = {}, {}
    for request, tokens, predicted in windows:
        with torch.no_grad():
            scores = model(torch.tensor([tokens[:-1]])).logits[0].log_softmax(-1)[-predicted:]
        wanted = torch.tensor(tokens[-predicted:])
        sums[request] = sums.get(request, 0.0) + float(scores.gather(1, wanted[:, None]).sum())
        greedy[request] = greedy.get(request, True) and bool((scores.argmax(-1) == wanted).all())
    return list(sums.values()), list(greedy.values())


@pytest.mark.parametrize("settings", [CPU, ComputeSettings(device="cpu", threads=2, micro_batch=3)], ids=["auto", "3"])
@pytest.mark.parametrize("enough", [0, 8], ids=["many-passes", "one-pass"])
def test_log_likelihoods_of_a_ticket(study, tmp_path, monkeypatch, settings, enough):
    monkeypatch.setattr(responding, "_ENOUGH", enough)
    windows = some_windows()
    path = made(study, tmp_path / "requests", windows)
    found = respond(Checkpoint.open(study / "model"), path, settings, NAMES, study / "mask")
    sums, greedy = expected(study / "ticket", windows)
    np.testing.assert_allclose(found.loglikelihoods, sums, rtol=1e-5, atol=1e-5)
    assert found.greedy == greedy
    found.write(tmp_path / "responses.json")
    assert Responses.read(tmp_path / "responses.json") == found
    assert (found.criterion, found.scope, found.sparsity) == ("magnitude", "layer", "0.5")


def test_equal_rows_are_computed_once(study, tmp_path):
    windows = some_windows()
    rows = Rows.of(Requests.read(made(study, tmp_path / "requests", windows)))
    assert len(rows.inputs) == len({tuple(tokens[:-1]) for _, tokens, _ in windows}) < len(windows)
    assert [len(row) for row in rows.inputs] == sorted(map(len, rows.inputs), reverse=True)


@pytest.mark.parametrize("execution", ["streamed", "in-memory"])
def test_greedy_continuations(study, tmp_path, execution):
    model = AutoModelForCausalLM.from_pretrained(study / "ticket", dtype=torch.float32)
    draw = np.random.default_rng(1)
    contexts = [draw.integers(3, 96, length).tolist() for length in (3, 9, 5)]
    windows = [(0, [4, 5, 6], 2), *((index + 1, tokens, 0) for index, tokens in enumerate(contexts))]
    plain = []
    for tokens in contexts:
        ids = list(tokens)
        for _ in range(7):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        new = ids[len(tokens) :]
        new = new[: new.index(1)] if 1 in new else new  # the end of a text
        plain.append(" ".join({0: "<bos>", 2: "<unk>"}.get(token, f"w{token - 3}") for token in new))
    stop = plain[1].split()[2]
    path = made(study, tmp_path / "requests", windows, [Generation((stop,), 7) for _ in contexts])
    settings = ComputeSettings(device="cpu", threads=1, execution=execution)
    found = respond(Checkpoint.open(study / "model"), path, settings, NAMES, study / "mask")
    assert found.texts == [text.split(stop)[0] for text in plain]
    assert found.loglikelihoods[1:] == [0.0] * 3
    assert found.greedy[1:] == [False] * 3


def test_refuses_requests_of_another_tokenizer_and_damaged_files(study, tmp_path):
    path = made(study, tmp_path / "requests", some_windows(3))
    asked = Requests.read(path)
    Requests(**{**vars(asked), "tokenizer": "0" * 64}).write(tmp_path / "other")
    with pytest.raises(UserError, match="not made with the tokenizer"):
        respond(Checkpoint.open(study / "model"), tmp_path / "other", CPU, NAMES)
    Requests(**{**vars(asked), "predicted": asked.lengths}).write(tmp_path / "impossible")
    with pytest.raises(DamagedFileError, match="windows do not fit"):
        Requests.read(tmp_path / "impossible")


def test_what_the_file_says(study, tmp_path):
    path = made(study, tmp_path / "requests", some_windows(3), [])
    respond(Checkpoint.open(study / "model"), path, CPU, NAMES).write(tmp_path / "dense.json")
    content = json.loads((tmp_path / "dense.json").read_text())
    assert content["kind"] == "set of responses"
    assert content["sparsity"] is None
    assert set(content["provenance"]["inputs"]) == {"requests", "checkpoint"}
