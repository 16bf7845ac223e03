"""Scores and masks of live models: to the bit what the pipeline's stages make of the same model."""

import math

import numpy as np
import pytest
import torch
from tiny import some_quick, tiny_model
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

import ltpipe
from ltpipe.api import importance, walking
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask
from ltpipe.pruning.scopes import scopes
from ltpipe.pruning.scorefile import ScoreFile
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source
from ltpipe.scoring.criterion import criterion_names, every_criterion
from ltpipe.scoring.hybrid import HybridPart, make_hybrid
from ltpipe.scoring.score import score_checkpoint

SETTINGS = ComputeSettings(device="cpu")
HYBRID = {"magnitude": 0.25, "fisher": 3}
SCOPES = (*scopes(), "2of4", "block4x4")


def stages(folder, criterion, sequences, here):
    """The pipeline: a file of scores, if the criterion has one, and a histogram."""
    scores = here / "scores"
    if criterion in criterion_names():
        score_checkpoint(
            Checkpoint.open(folder), criterion, scores, Selection(), sequences, SETTINGS, options_given(criterion)
        )
    elif criterion == "hybrid":
        score_checkpoint(Checkpoint.open(folder), "fisher", here / "fisher", Selection(), sequences, SETTINGS)
        parts = [HybridPart("magnitude", HYBRID["magnitude"]), HybridPart(str(here / "fisher"), HYBRID["fisher"])]
        make_hybrid(Checkpoint.open(folder), criterion, parts, Selection(), scores)
    else:
        scores = None
    seed = 7 if criterion == "random" else None
    make_histogram(Checkpoint.open(folder), criterion, seed, Selection(), scores).write(here / "counts")
    given = {} if criterion == "hybrid" else options_given(criterion)
    return scores, {"seed": seed, "criterion": HYBRID if criterion == "hybrid" else criterion, "options": given}


def options_given(criterion):
    """Other options than the defaults, of a criterion that has some."""
    return {"synflow": {"iterations": 3}, "grasp": {"temperature": 2.0}}.get(criterion, {})


def both(pipeline, live):
    """What two ways answer: a value, or one line of refusal."""
    answers = []
    for make in (pipeline, live):
        try:
            answers.append(make())
        except UserError as error:
            answers.append(str(error))
    return answers


def same_masks(folder, model, scores, options, data, here):
    for scope in SCOPES:

        def pipeline(scope=scope):
            make_mask(Checkpoint.open(folder), here / "counts", scope, "0.5", here / "mask", scores)
            return load_mask(here / "mask")

        def live(scope=scope):
            return ltpipe.create_mask(model, 0.5, scope=scope, dataloader=data, **options)

        theirs, ours = both(pipeline, live)
        if isinstance(theirs, str):
            assert ours == theirs, scope
            continue
        assert list(ours) == list(theirs), scope
        assert all(torch.equal(ours[name], kept) for name, kept in theirs.items()), scope


QUICK = ("magnitude", "random", "taylor", "grasp", "wanda", "synflow", "hybrid")


@pytest.mark.parametrize(
    "criterion",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in [*every_criterion(), "hybrid"]],
)
def test_equal_to_the_stages_in_every_scope(criterion, canonical_folder, calibration, token_ids, monkeypatch, tmp_path):
    folder, model = canonical_folder("llama"), tiny_model("llama").train()
    scores, options = stages(folder, criterion, calibration("llama"), tmp_path)
    data = [token_ids[:3], {"input_ids": token_ids[3:], "labels": token_ids[3:]}]
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    found = ltpipe.compute_importance(model, dataloader=iter(data), **options)
    if scores:
        for name, values in found.items():
            assert values.dtype == torch.float32
            assert np.array_equal(values.numpy(), ScoreFile(scores).array(name)), name
    keys = importance._keys
    held = keys(
        importance._Model.of(model, None, (), ()), options["criterion"], data, options["seed"], options["options"]
    )
    monkeypatch.setattr(importance, "_keys", lambda *_: held)  # the scores do not depend on the scope: once is enough
    same_masks(folder, model, scores, options, data, tmp_path)
    assert [module.training for module in model.modules()] == modes
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.requires_grad
        assert parameter.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("criterion", [*every_criterion(), "hybrid"])
def test_equal_to_the_stages_in_half_precision(criterion, dtype, source_folder, token_ids, calibration, tmp_path):
    source, folder = str(source_folder("llama")), tmp_path / "model"
    load_checkpoint(Source(source), None, dtype, folder)
    # Not `model.to(dtype)`, which would round the rotary frequencies too: from_pretrained leaves them in float32.
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    scores, options = stages(folder, criterion, calibration("llama"), tmp_path)
    make_mask(Checkpoint.open(folder), tmp_path / "counts", "global", "0.5", tmp_path / "mask", scores)
    ours = ltpipe.create_mask(model, "0.5", dataloader=[token_ids], **options)
    assert all(torch.equal(ours[name], kept) for name, kept in load_mask(tmp_path / "mask").items())
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


@pytest.mark.parametrize("architecture", some_quick(("gpt2",)))
def test_equal_to_the_stages_on_other_architectures(architecture, canonical_folder, calibration, token_ids, tmp_path):
    folder = canonical_folder(architecture)
    scores, options = stages(folder, "taylor", calibration(architecture), tmp_path)
    make_mask(Checkpoint.open(folder), tmp_path / "counts", "row", "0.5", tmp_path / "mask", scores)
    ours = ltpipe.create_mask(tiny_model(architecture), 0.5, scope="row", dataloader=[token_ids], **options)
    theirs = load_mask(tmp_path / "mask")
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], kept) for name, kept in theirs.items())


def test_a_model_is_whole_again_after_an_exception(token_ids, monkeypatch):
    model = tiny_model("llama")
    held = {name: (parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()}
    monkeypatch.setattr(walking.StreamedSubject, "input_norms", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ltpipe.create_mask(model, 0.5, "wanda", dataloader=[token_ids])
    for name, parameter in model.named_parameters():
        assert parameter is held[name][0]
        assert torch.equal(parameter, held[name][1])


def test_blocks_that_share_more_than_hidden_states_are_run_whole(token_ids, caplog):
    """Without the comparison each micro-batch would see what the one before it left."""
    from transformers import LlamaForCausalLM

    model = tiny_model("llama")
    expected = ltpipe.compute_importance(model, "snip", [token_ids])

    class Shared(nn.Module):
        """A block that adds what the first sequence of the batch left in the last call."""

        def __init__(self, block, memory):
            super().__init__()
            self.block, self.memory = block, memory

        def forward(self, hidden_states, **kwargs):
            found = self.block(hidden_states, **kwargs)
            self.memory["calls"] = self.memory.get("calls", 0) + 1
            return found * (1 + 0.1 * len(hidden_states))

    assert isinstance(model, LlamaForCausalLM)
    model.model.layers[0] = Shared(model.model.layers[0], {})
    found = ltpipe.compute_importance(model, "snip", [token_ids])
    assert "loading the whole model: its blocks share more than hidden states" in caplog.text
    assert len(found) == len(expected)


# Other modules and other batches -------------------------------------------------------------------------------------


def network(dtype=torch.float32):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 5)]
    return nn.Sequential(*layers).to(dtype)


def images(sizes=(4, 6)):
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.randint(5, (size,), generator=generator))
        for size in sizes
    ]


def by_hand(model, batches, criterion):
    """Plain autograd in float64, example by example."""
    model = network().double().eval()
    model.load_state_dict({name: tensor.double() for name, tensor in model.state_dict().items()})
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = sum(len(labels) for _, labels in batches)
    for values, labels in batches:
        for value, label in zip(values, labels, strict=True):
            loss = functional.cross_entropy(model(value[None].double()), label[None])
            for (name, parameter), gradient in zip(
                parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True
            ):
                sums[name] += {
                    "fisher": gradient.square() / count,
                    "taylor": (parameter * gradient).abs() / count,
                    "snip": parameter * gradient,
                    "gradient-norm": gradient,
                }[criterion]
    return {name: total.abs().detach() for name, total in sums.items()}


@pytest.mark.parametrize("criterion", ["fisher", "taylor", "snip", "gradient-norm"])
def test_a_network_of_images_against_plain_autograd(criterion):
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = ltpipe.compute_importance(model, criterion, images())
    expected = by_hand(model, images(), criterion)
    assert list(found) == sorted(expected, key=str.encode)
    for name, values in found.items():
        torch.testing.assert_close(values.double(), expected[name], rtol=1e-4, atol=1e-6)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("criterion", [*every_criterion(), "hybrid"])
def test_every_criterion_takes_a_network_of_images(criterion):
    model = network()
    options = {"criterion": HYBRID if criterion == "hybrid" else criterion, "seed": 1}
    options["options"] = options_given(criterion)
    mask = ltpipe.create_mask(model, 0.5, scope="layer", dataloader=images(), **options)
    assert {name: (tuple(kept.shape), int(kept.sum())) for name, kept in mask.items()} == {
        "0.weight": ((8, 3, 3, 3), 108),
        "5.weight": ((5, 288), 720),
    }


def padded(model_text):
    padding = torch.ones_like(model_text)
    padding[0, :4] = 0
    return {"input_ids": model_text, "attention_mask": padding}


def test_padding_and_ignored_labels_have_no_gradient(token_ids):
    model = tiny_model("llama")
    labels = token_ids.masked_fill(padded(token_ids)["attention_mask"] == 0, -100)
    labels[:, 10:14] = -100
    found = ltpipe.compute_importance(model, "gradient-norm", [{**padded(token_ids), "labels": labels}])
    loss = model(**padded(token_ids), labels=labels).loss * int((labels[:, 1:] != -100).sum())
    names = list(found)
    for name, gradient in zip(names, torch.autograd.grad(loss, [model.get_parameter(n) for n in names]), strict=True):
        torch.testing.assert_close(found[name], gradient.abs(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: {"criterion": "beauty"}, "criterion 'beauty' is unknown here; use magnitude, fisher"),
        (lambda _: {"criterion": {}}, "the hybrid is empty"),
        (lambda _: {"criterion": {"magnitude": -1}}, "weight -1.0 of magnitude is not allowed"),
        (lambda _: {"criterion": {"random": 1}}, "criterion 'random' is unknown here"),
        (lambda _: {"criterion": "random"}, "criterion 'random' needs a seed"),
        (lambda _: {"criterion": "wanda"}, "criterion 'wanda' needs calibration data; pass a dataloader"),
        (lambda _: {"criterion": "wanda", "dataloader": []}, "needs calibration data"),
        (lambda ids: {"criterion": "wanda", "dataloader": [padded(ids)]}, "its texts are padded"),
        (lambda _: {"criterion": "snip", "dataloader": ["text"]}, "a batch is a str"),
        (lambda _: {"options": {"magic": 1}}, "magnitude: unknown option 'magic'; there are no options"),
        (lambda _: {"scope_options": {"magic": 1}}, "scope global: unknown option 'magic'; there are no options"),
        (
            lambda _: {"criterion": {"magnitude": 1}, "options": {"fisher": {}}},
            "options: a hybrid needs a dict of options by",
        ),
        (lambda _: {"scope": "square"}, "scope 'square' is unknown"),
        (lambda _: {"scope": "2of4", "sparsity": 0.6}, "prunes exactly 0.5, not 0.6"),
        (lambda _: {"sparsity": 1.5}, "fraction from 0 to 1"),
        (lambda _: {"sparsity": math.nan}, "fraction from 0 to 1"),
        (lambda _: {"preset": "most"}, "preset: 'most' is not allowed; use linear or all-weights"),
        (lambda _: {"exclude": ["nothing*"]}, "'nothing.' matches no parameter"),
    ],
)
def test_what_is_refused_of_a_language_model(make, message, token_ids):
    model = tiny_model("llama")
    with pytest.raises(UserError, match=message):
        ltpipe.create_mask(model, **{"sparsity": 0.5, "criterion": "magnitude", **make(token_ids)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (network(), {"scope": "heads"}), "scope 'heads' does not know the units of Sequential"),
        (lambda: (network(), {"preset": "linear"}), "no weights of Sequential are selected"),
        (lambda: (network(), {"criterion": "synflow"}), "needs an example input of Sequential; pass a dataloader"),
        (
            lambda: (network(torch.bfloat16), {"criterion": "grasp", "dataloader": images()}),
            "computes in float32; cast the model with model.float",
        ),
        (lambda: (nn.Linear(3, 3, device="meta"), {}), "meta device"),
        (lambda: (nn.ReLU(), {}), "no weights of ReLU are selected"),
        (lambda: (nn.Linear(3, 3).double(), {}), "set the model's dtype to float32"),
        (lambda: (nn.Linear(3, 3), {"criterion": "snip", "dataloader": [torch.ones(2, 3)]}), "returns no loss"),
    ],
)
def test_what_is_refused_of_other_modules(make, message):
    model, options = make()
    with pytest.raises(UserError, match=message):
        ltpipe.create_mask(model, 0.5, **options)


def test_presets_choose_what_competes(canonical_folder, tmp_path):
    model, folder = tiny_model("llama"), canonical_folder("llama")
    for preset in ("linear", "all-weights"):
        make_histogram(Checkpoint.open(folder), "magnitude", None, Selection(preset)).write(tmp_path / "counts")
        make_mask(Checkpoint.open(folder), tmp_path / "counts", "global", "0.37", tmp_path / "mask")
        theirs = load_mask(tmp_path / "mask")
        for ours in (
            ltpipe.create_magnitude_mask(model, 0.37, preset=preset),
            ltpipe.create_mask(model, 0.37, preset=preset),
        ):
            assert list(ours) == list(theirs)
            assert all(torch.equal(ours[name], kept) for name, kept in theirs.items())
    assert "lm_head.weight" in ltpipe.create_magnitude_mask(model, 0.37)
    assert "lm_head.weight" not in ltpipe.create_mask(model, 0.37)
    with pytest.raises(UserError, match="preset: 'most' is not allowed"):
        ltpipe.create_magnitude_mask(model, 0.5, preset="most")
