"""The recover stage on whole models: as a plain loop over a live model trains them, with the mask held exactly."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import ARCHITECTURES, save_tiny, tiny_model
from torch.nn import functional

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.exporting.formats import export_ticket
from ltpipe.inspection.recognise import describe
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask, read_mask
from ltpipe.pruning.solution import read_solution
from ltpipe.recovery.record import RecoveryRecord
from ltpipe.recovery.recover import Recovery, recover
from ltpipe.recovery.settings import RecoverySettings
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.sources import Source
from ltpipe.solving.solve import solve_checkpoint
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.loop import batches
from ltpipe.training.randomness import generator

CPU = TrainingCompute(device="cpu")
EVALUATION = ComputeSettings(device="cpu", threads=1)
SETTINGS = RecoverySettings("full", 0.01, steps=6, batch_size=4, rank=3, alpha=6.0, seed=5, warmup=0.34)
MODES = ("full", "lora", "norms-and-biases")


@pytest.fixture
def ticket(canonical_folder, tmp_path):
    """Function from an architecture to the checkpoint, a mask and sequences to train on."""

    def make(
        architecture: str, folder: Path | None = None, sparsity: str = "0.5", selection: Selection | None = None
    ) -> Recovery:
        folder = folder or canonical_folder(architecture)
        checkpoint = Checkpoint.open(folder)
        ids = np.random.default_rng(3).integers(3, 90, (12, 24), dtype=np.int32)
        sequences = tmp_path / f"{architecture}.sequences"
        TokenSequences(ids, 12, 1, sha256_of(folder / TOKENIZER)).write(sequences)
        counts, mask = tmp_path / "counts", tmp_path / f"{architecture}-{sparsity}.mask"
        make_histogram(checkpoint, "magnitude", None, selection or Selection()).write(counts)
        make_mask(checkpoint, counts, "layer", sparsity, mask)
        return Recovery(checkpoint, mask, sequences, SETTINGS, CPU)

    return make


def trained(recovery: Recovery, place: Path, **settings) -> dict[str, np.ndarray]:
    """The new values, after a recovery with some settings changed."""
    recovery = replace(recovery, settings=replace(recovery.settings, **settings))
    recover(recovery, place / "solution", place / "record")
    return values(recovery, place / "solution")


def values(recovery: Recovery, path: Path) -> dict[str, np.ndarray]:
    mask = read_mask(recovery.mask)
    return dict(read_solution(path, mask, recovery.mask, recovery.checkpoint.manifest.tensors).values)


def by_hand(architecture: str, recovery: Recovery) -> dict[str, torch.Tensor]:
    """The weights after the same training, written down plainly over a live float32 model."""
    settings, masks = recovery.settings, load_mask(recovery.mask)
    model = tiny_model(architecture).float().train()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, kept in masks.items():
        weights[name] *= kept
    if settings.mode == "lora":
        linear = {
            f"{name}.weight" for name, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")
        }
        adapted = [name for name in masks if name in linear]
        factors = {}
        for name in adapted:
            rows, columns = weights[name].shape
            down = torch.empty(settings.rank, columns)
            bound = 1 / math.sqrt(columns)
            down.uniform_(-bound, bound, generator=generator(settings.seed, "low-rank change", name))
            factors[name] = (torch.zeros(rows, settings.rank, requires_grad=True), down.requires_grad_())
        parameters = [factor for pair in factors.values() for factor in pair]
    else:
        chosen = [
            name for name in weights if settings.mode == "full" or (weights[name].dim() <= 1 and name not in masks)
        ]
        for name in chosen:
            weights[name].requires_grad_()
        parameters = [weights[name] for name in chosen]

    def effective() -> dict[str, torch.Tensor]:
        if settings.mode != "lora":
            return weights
        scale = settings.alpha / settings.rank
        changed = {name: (weights[name] + scale * up @ down) * masks[name] for name, (up, down) in factors.items()}
        return {**weights, **changed}

    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    ids = torch.from_numpy(TokenSequences.read(recovery.sequences).input_ids.astype(np.int64))
    order = batches(len(ids), settings.batch_size, settings.seed, 0)
    warmup = round(settings.warmup * settings.steps)
    for step in range(settings.steps):
        rate = (step + 1) / warmup if step < warmup else (settings.steps - step) / (settings.steps - warmup)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * rate
        batch = ids[next(order)]
        output = torch.func.functional_call(
            model, effective(), (), {"input_ids": batch, "use_cache": False}, tie_weights=True
        )
        loss = functional.cross_entropy(output.logits[:, :-1].flatten(0, -2), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        for name, kept in masks.items():
            if weights[name].grad is not None:
                weights[name].grad *= kept
        optimizer.step()
    return {name: value.detach() for name, value in effective().items()}


# Dropout would draw other noise in the loop by hand.
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "opt", "gemma", "mixtral"])
def test_a_recovery_is_the_plain_loop(architecture, mode, ticket, tmp_path, monkeypatch):
    for dropout in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "attention_dropout"):
        if architecture in ("gpt2", "opt"):
            monkeypatch.setitem(ARCHITECTURES[architecture][1], dropout, 0.0)
    folder = tmp_path / "canonical"
    load_checkpoint(Source(str(save_tiny(architecture, tmp_path / "source"))), None, "auto", folder)
    recovery = ticket(architecture, folder)
    recovery = replace(recovery, settings=replace(SETTINGS, mode=mode))
    found, masks = trained(recovery, tmp_path), load_mask(recovery.mask)
    wanted = by_hand(architecture, recovery)
    dense = dict(tiny_model(architecture).named_parameters())
    for name, value in found.items():
        kept = wanted[name][masks[name]] if name in masks else wanted[name]
        if name.endswith(("k_proj.bias", "c_attn.bias")):
            continue  # a bias of all keys changes no attention: its gradient is rounding, which Adam makes large
        torch.testing.assert_close(torch.from_numpy(value.copy()), kept, rtol=1e-3, atol=2e-5)
    changed = {
        name for name in dense
        if not torch.equal(wanted[name], dense[name] * masks[name] if name in masks else dense[name])
    }  # fmt: skip
    assert changed <= found.keys()
    if mode == "lora":
        assert all(name in masks for name in found)
        assert ("experts" in " ".join(masks)) == (len(found) < len(masks))


def test_a_ticket_is_the_model_with_these_values_and_as_sparse(ticket, tmp_path):
    """As plain transformers loads it from the export; evaluated as itself, not as the ticket before."""
    from transformers import AutoModelForCausalLM

    for mode in MODES:
        recovery, place = ticket("llama"), tmp_path / mode
        found = trained(recovery, place, mode=mode)
        masks = load_mask(recovery.mask)
        export_ticket("hf", recovery.mask, recovery.checkpoint, place / "ticket", place / "solution")
        model = AutoModelForCausalLM.from_pretrained(place / "ticket", dtype=torch.float32).eval()
        for name, value in found.items():
            weight = model.get_parameter(name).detach()
            assert np.array_equal(weight[masks[name]] if name in masks else weight, value)
        assert not any(model.get_parameter(name)[~kept].any() for name, kept in masks.items())
        names = {"model": "m", "data": "d"}
        dense = evaluate_checkpoint(recovery.checkpoint, recovery.sequences, EVALUATION, names)
        dense.write(place / "dense")
        ids = torch.from_numpy(TokenSequences.read(recovery.sequences).input_ids.astype(np.int64))
        with torch.no_grad():
            logits = model(ids).logits[:, :-1]
        own = functional.cross_entropy(logits.flatten(0, -2), ids[:, 1:].flatten()).item()
        after = evaluate_checkpoint(
            recovery.checkpoint, recovery.sequences, EVALUATION, names, recovery.mask, place / "dense",
            solution=place / "solution",
        )  # fmt: skip
        before = evaluate_checkpoint(
            recovery.checkpoint, recovery.sequences, EVALUATION, names, recovery.mask, place / "dense"
        )
        assert after.loss == pytest.approx(own, rel=1e-5)
        assert after.loss < before.loss
        assert (before.criterion, after.criterion) == ("magnitude", "magnitude+recovery")
        assert after.kept == before.kept


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "llama", "mixtral"])
def test_what_is_trained_is_what_is_evaluated(architecture, mode, ticket, tmp_path, monkeypatch):
    """Whatever the mask covers: embeddings, a head that is tied to them, norms, experts."""
    from ltpipe.recovery import recover as stage

    recovery = ticket(architecture, selection=Selection("all-weights"))
    recovery = replace(recovery, settings=replace(SETTINGS, mode=mode))
    own, seen = stage._write, {}

    def watching(output, trained, *others):
        ids = torch.from_numpy(TokenSequences.read(recovery.sequences).input_ids.astype(np.int64))
        with torch.no_grad():
            seen["loss"] = stage.next_token_loss(trained.model.eval(), ids, ids[:, 1:]).item()
        own(output, trained, *others)

    monkeypatch.setattr(stage, "_write", watching)
    recover(recovery, tmp_path / "solution", tmp_path / "record")
    names = {"model": "m", "data": "d"}
    evaluate_checkpoint(recovery.checkpoint, recovery.sequences, EVALUATION, names).write(tmp_path / "dense")
    found = evaluate_checkpoint(
        recovery.checkpoint, recovery.sequences, EVALUATION, names, recovery.mask, tmp_path / "dense",
        solution=tmp_path / "solution",
    )  # fmt: skip
    assert found.loss == pytest.approx(seen["loss"], rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_recovery_goes_on_to_the_same_bytes(mode, ticket, tmp_path, monkeypatch):
    from ltpipe.recovery import recover as stage

    recovery = replace(ticket("llama"), settings=replace(SETTINGS, mode=mode), save_every=2)
    recover(recovery, tmp_path / "whole", tmp_path / "record")
    own, taken = stage.next_token_loss, []

    def stopping(*given):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return own(*given)

    monkeypatch.setattr(stage, "next_token_loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        recover(recovery, tmp_path / "killed", tmp_path / "record")
    assert not (tmp_path / "killed").exists()
    recover(recovery, tmp_path / "killed", tmp_path / "record")
    assert len(taken) == 4 + SETTINGS.steps - 2
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if "resume" in path.name) == []


def test_another_recovery_is_not_gone_on_with(ticket, tmp_path, monkeypatch):
    from ltpipe.recovery import recover as stage

    recovery = replace(ticket("llama"), save_every=1)

    def stopping(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_write", stopping)
        with pytest.raises(KeyboardInterrupt):
            recover(recovery, tmp_path / "out", tmp_path / "record")
    other = replace(recovery, settings=replace(SETTINGS, learning_rate=0.02))
    recover(other, tmp_path / "out", tmp_path / "record")
    fresh = values(other, tmp_path / "out")
    recover(other, tmp_path / "alone", tmp_path / "record")
    assert all(np.array_equal(value, fresh[name]) for name, value in values(other, tmp_path / "alone").items())


def test_parts_of_a_batch_and_checkpointing_change_rounding_alone(ticket, tmp_path):
    recovery = ticket("llama")
    for mode in MODES:
        whole = trained(recovery, tmp_path, mode=mode)
        for settings in ({"micro_batch": 3}, {"gradient_checkpointing": True}):
            parts = trained(recovery, tmp_path, mode=mode, **settings)
            for name, value in whole.items():
                np.testing.assert_allclose(parts[name], value, rtol=1e-3, atol=2e-5)


def test_the_values_of_a_solver_are_where_training_starts(ticket, tmp_path):
    """With a rate of 0 the ticket stays what the solver made of it; vectors alone leave its values as they are."""
    recovery, mask, solution = ticket("llama"), tmp_path / "m", tmp_path / "s"
    solve_checkpoint(
        recovery.checkpoint, "sparsegpt", "row", "0.5", recovery.sequences, mask, solution, Selection(), EVALUATION
    )
    solved = replace(recovery, mask=mask, solution=solution)
    wanted = values(solved, solution)
    for mode in MODES:
        found = trained(solved, tmp_path, mode=mode, learning_rate=0.0)
        assert wanted.keys() <= found.keys()
        assert all(np.array_equal(found[name], value) for name, value in wanted.items())
    vectors = trained(solved, tmp_path, mode="norms-and-biases")
    assert all(np.array_equal(vectors[name], value) for name, value in wanted.items())
    assert len(vectors) > len(wanted)
    changed = trained(solved, tmp_path, mode="lora")
    assert not all(np.array_equal(changed[name], value) for name, value in wanted.items())
    with pytest.raises(UserError, match="also changed the weights that its mask keeps; give --solution"):
        recover(replace(solved, solution=None), tmp_path / "x", tmp_path / "y")


def test_learning_from_the_dense_model_alone_brings_its_predictions_nearer(ticket, tmp_path):
    from ltpipe.recovery.model import frozen_model

    recovery = ticket("llama")
    mask = read_mask(recovery.mask)
    ids = torch.from_numpy(TokenSequences.read(recovery.sequences).input_ids.astype(np.int64))
    dense = tiny_model("llama").eval()
    with torch.no_grad():
        wanted = dense(ids).logits
        torch.testing.assert_close(frozen_model(recovery.checkpoint, mask, torch.device("cpu"))(ids).logits, wanted)

    def distance(place: Path) -> float:
        export_ticket("hf", recovery.mask, recovery.checkpoint, place / "ticket", place / "solution")
        dense.load_state_dict(load_file(place / "ticket" / "model.safetensors"), strict=False)
        with torch.no_grad():
            return functional.kl_div(
                dense(ids).logits.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean"
            ).item()

    trained(recovery, tmp_path / "still", learning_rate=0.0)
    trained(recovery, tmp_path / "taught", soft=1.0, temperature=1.0)
    trained(recovery, tmp_path / "hard", soft=0.0)
    still, taught, hard = (distance(tmp_path / name) for name in ("still", "taught", "hard"))
    assert taught < still
    assert taught < hard


def test_bfloat16_is_trained_in_float32_and_stored_as_it_was(ticket, tmp_path):
    folder = tmp_path / "canonical"
    load_checkpoint(Source(str(save_tiny("llama", tmp_path / "source"))), None, "bfloat16", folder)
    recovery = ticket("llama", folder)
    for mode in MODES:
        found = trained(recovery, tmp_path / mode, mode=mode)
        assert all(value.dtype == np.uint16 for value in found.values())
        assert RecoveryRecord.read(tmp_path / mode / "record").mode == mode
    # Ten steps of a rate at which no bfloat16 weight would move in any one of them, and all of them together do.
    rate = {"learning_rate": 2e-4, "schedule": "constant", "warmup": 0.0}
    one = trained(recovery, tmp_path / "one", steps=1, **rate)
    many = trained(recovery, tmp_path / "many", steps=40, **rate)
    name = "model.layers.0.mlp.up_proj.weight"
    assert (one[name] != many[name]).mean() > 2 * (one[name] != values_before(recovery, name)).mean()


def values_before(recovery: Recovery, name: str) -> np.ndarray:
    kept = load_mask(recovery.mask)[name].numpy().reshape(-1)
    return recovery.checkpoint.weights.array(name).reshape(-1)[kept]


def test_the_record_says_what_was_trained(ticket, tmp_path):
    recovery = ticket("llama")
    trained(recovery, tmp_path, mode="lora")
    record, mask = RecoveryRecord.read(tmp_path / "record"), read_mask(recovery.mask)
    assert (record.tokens, record.steps, record.sparsity) == (6 * 4 * 24, 6, "0.5")
    assert record.trained == sum(3 * sum(shape) for shape in mask.shapes.values())
    assert record.changed == mask.total_kept
    assert record.criterion == "magnitude+recovery"
    assert record.provenance["inputs"].keys() == {"checkpoint", "sequences", "mask"}
    assert json.loads((tmp_path / "record").read_text())["kind"] == "recovery record"


@pytest.mark.parametrize("mode", MODES)
def test_a_ticket_without_weights_is_trained_too(mode, ticket, tmp_path):
    recovery = ticket("llama", sparsity="1")
    trained(recovery, tmp_path, mode=mode)
    record, masked = RecoveryRecord.read(tmp_path / "record"), read_mask(recovery.mask).total
    if mode == "full":
        every = sum(entry.size for entry in recovery.checkpoint.manifest.tensors.values())
        assert record.trained == record.changed == every - masked
    assert mode != "lora" or record.changed == 0


def test_files_and_names_that_do_not_fit_are_one_line(ticket, tmp_path):
    recovery = ticket("gpt2")
    folder = recovery.checkpoint.folder
    refused = [
        (lambda: recover(recovery, tmp_path / "s", tmp_path / "s"), "output: .* is also another file"),
        (lambda: recover(recovery, recovery.mask, tmp_path / "r"), "output: .* is also another file"),
        (lambda: recover(recovery, tmp_path / "s", tmp_path / "r", name="a+b"), "recovery: 'a\\+b' is not a name"),
        (lambda: recover(recovery, tmp_path / "s", tmp_path / "r", name=""), "recovery: '' is not a name"),
        (lambda: replace(recovery, save_every=0), "save_every: 0 is not allowed; use 1 step or more"),
    ]
    for length in (1, 100):
        ids, path = np.full((4, length), 7, np.int32), tmp_path / f"{length}.sequences"
        TokenSequences(ids, 4, 1, sha256_of(folder / TOKENIZER)).write(path)
        long = replace(recovery, sequences=path)
        words = f"sequence_length: {length} tokens are not allowed; GPT2LMHeadModel takes 2 to 64"
        refused.append((lambda long=long: recover(long, tmp_path / "s", tmp_path / "r"), words))
    for attempt, words in refused:
        with pytest.raises(UserError, match=words):
            attempt()
    assert not (tmp_path / "s").exists()
    recover(recovery, tmp_path / "s", tmp_path / "r")
    with pytest.raises(UserError, match="weights that the recovery 'recovery' trained; a recovery starts from a mask"):
        recover(replace(recovery, solution=tmp_path / "s"), tmp_path / "t", tmp_path / "u")
    other = ticket("gpt2", sparsity="0.25")
    with pytest.raises(UserError, match=r"solution of another mask than .*; give the one that was made for it$"):
        recover(replace(other, solution=tmp_path / "s"), tmp_path / "t", tmp_path / "u")


def test_what_takes_no_solution_refuses_it(ticket, tmp_path):
    recovery = ticket("llama")
    trained(recovery, tmp_path)
    for kind, mask in (
        ("bool", recovery.mask),
        ("torch-prune", recovery.mask),
        ("smaller", recovery.mask),
        ("hf", None),
    ):
        with pytest.raises(UserError, match="takes no new values of weights; use format hf"):
            export_ticket(kind, mask, recovery.checkpoint, tmp_path / "out", tmp_path / "solution")
    export_ticket("hf", recovery.mask, recovery.checkpoint, tmp_path / "out", tmp_path / "solution")
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata()["criterion"] == "magnitude+recovery"
    assert describe(tmp_path / "record").kind == "recovery record"
    (listing,) = describe(tmp_path / "solution").listings
    assert all(size for _, size in listing.rows)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": 1e30, "mode": "full"}, "training diverged: .* is not finite; lower the learning rate"),
        ({"batch_size": 13}, "batch_size: 13 exceeds the 12 training examples; use 1 to 12"),
    ],
)
def test_what_cannot_be_trained_is_one_line(settings, words, ticket, tmp_path):
    with pytest.raises(UserError, match=words):
        trained(ticket("llama"), tmp_path, **settings)
    assert not (tmp_path / "solution").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mode": "some"}, "mode: some is not allowed; use full, lora, norms-and-biases"),
        ({"schedule": "cosine"}, "schedule: cosine is not allowed; use linear, constant"),
        ({"steps": 0}, "steps: 0 is not allowed; use 1 or more"),
        ({"rank": 0}, "rank: 0 is not allowed; use 1 or more"),
        ({"warmup": 1.5}, "warmup: 1.5 is not allowed; use 0 to 1"),
        ({"soft": -0.5}, "soft: -0.5 is not allowed; use 0 to 1"),
        ({"alpha": 0.0}, "alpha: 0.0 is not allowed; use a number above 0"),
        ({"temperature": float("nan")}, "temperature: nan is not allowed; use a number above 0"),
        ({"learning_rate": float("inf")}, "learning_rate: inf is not allowed; use a finite number, 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(changed, words):
    with pytest.raises(UserError, match=words):
        replace(SETTINGS, **changed)
