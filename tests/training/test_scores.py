"""Every criterion of a level against a few plain lines in float64, and against the scores of a streamed checkpoint."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from trainings import CLASSES, SIDE, Toy, half_mask, image_set, settings, trained

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.evaluation.plan import BatchSizes
from ltpipe.pruning.apply import fetch_from
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import NoOptions
from ltpipe.scoring.criterion import criterion_names, criterion_options, every_criterion, scored_criterion
from ltpipe.scoring.curvature import SummedGradient
from ltpipe.scoring.streamed import ChangingFetch, StreamedSubject
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton
from ltpipe.training import levels, models, scores
from ltpipe.training.examples import Examples
from ltpipe.training.randomness import generator
from ltpipe.training.scores import level_scores
from ltpipe.training.state import rewind, start_of

SEED, EXAMPLES, STEPS = 8, 9, 3


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 9), nn.ReLU(), nn.Linear(9, CLASSES))


def convnet():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2, padding_mode="circular"),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Flatten(),
        nn.Linear(72, CLASSES),
    )


class Untouchable:
    """Examples that nobody may look at."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} of validation or test examples was read")


@pytest.fixture(scope="module", params=[mlp, convnet], ids=lambda make: make.__name__)
def ready(request):
    """Task, trained state and mask: half of the weights are pruned."""

    def make(seed):
        with torch.random.fork_rng(devices=[]):
            model = request.param()
        values = models.initial_weights(model, seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(values[name])
        return model

    task = Toy(make, image_set(100, 1), image_set(60, 2), image_set(60, 3))
    model = task.build(0)
    state = trained(task, settings(iterations=30), rewind(start_of(model), half_mask(model)))
    return replace(task, validation=Untouchable(), test=Untouchable()), state


def options_for(criterion):
    return {"iterations": STEPS} if criterion == "synflow" else {}


def scored(task, state, criterion, **changes):
    given = {"examples": EXAMPLES, "seed": SEED, "options": options_for(criterion)} | changes
    return level_scores(task, state.weights, state.buffers, criterion, state.mask, **given)


class Plain:
    """The model in float64, and what it was calibrated with."""

    def __init__(self, task, state):
        self.model = task.build(0).double().eval()
        self.model.load_state_dict({**state.weights, **state.buffers})
        self.kept = {name: kept.double() for name, kept in state.mask.items()}
        self.weights = {name: self.model.get_parameter(name) for name in sorted(self.kept)}
        chosen = torch.randperm(len(task.train), generator=generator(SEED, "calibration"))[:EXAMPLES]
        self.inputs, self.labels = task.train.inputs[chosen].double(), task.train.labels[chosen]

    def gradients(self, size, temperature=1, **options):
        """Of the summed loss of each batch, by name [batches, *shape]; those of pruned weights are 0."""
        weights, rows = list(self.weights.values()), []
        for inputs, labels in zip(self.inputs.split(size), self.labels.split(size), strict=True):
            loss = functional.cross_entropy(self.model(inputs) / temperature, labels, reduction="sum")
            rows.append(torch.autograd.grad(loss, weights, **options))
        columns = zip(*rows, strict=True)
        return {name: torch.stack(column) * self.kept[name] for name, column in zip(self.weights, columns, strict=True)}


def clipped(gradient):
    return gradient * min(1, 1 / float(gradient.norm()))


def grasp(plain, temperature=200):
    first = plain.gradients(EXAMPLES, temperature, create_graph=True)
    along = sum((gradient * gradient.detach()).sum() for gradient in first.values())
    second = torch.autograd.grad(along, list(plain.weights.values()))
    return {name: w * h for (name, w), h in zip(plain.weights.items(), second, strict=True)}


def wanda(plain):
    inputs = {}
    for name, layer in plain.model.named_modules():
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({f"{name}.weight": args[0]}))
    plain.model(plain.inputs)
    found = {}
    for name, weight in plain.weights.items():
        layer, x = plain.model.get_submodule(name.removesuffix(".weight")), inputs[name]
        if isinstance(layer, nn.Conv2d):
            x = functional.pad(x, (1, 1, 1, 1), "constant" if layer.padding_mode == "zeros" else "circular")
            patches = functional.unfold(x, layer.kernel_size, stride=layer.stride)
            norms = patches.norm(dim=(0, 2)).reshape(layer.groups, 1, -1, *layer.kernel_size)
            norms = norms.expand(-1, len(weight) // layer.groups, -1, -1, -1).reshape(weight.shape)
        else:
            norms = x.norm(dim=0)
        found[name] = weight.abs() * norms
    return found


def synflow(plain):
    """The steps of the paper, one flat vector of all weights; scores as the criterion's docstring defines them."""
    with torch.no_grad():
        for values in plain.model.state_dict().values():
            values.abs_()
    original = {name: weight.detach().clone() for name, weight in plain.weights.items()}
    sizes = [weight.numel() for weight in original.values()]
    left, found = torch.ones(sum(sizes), dtype=torch.bool), torch.zeros(sum(sizes), dtype=torch.float64)
    for step in range(STEPS + 1):
        with torch.no_grad():
            for (name, weight), kept in zip(plain.weights.items(), left.split(sizes), strict=True):
                weight.copy_(original[name] * kept.reshape(weight.shape))
        weights = list(plain.weights.values())
        saliencies = torch.autograd.grad(plain.model(torch.ones_like(plain.inputs[:1])).sum(), weights)
        flow = torch.cat([(w * g).flatten() for w, g in zip(weights, saliencies, strict=True)]).detach()
        if step == STEPS:
            break
        last = flow
        fallen = round((1 - 0.01 ** ((step + 1) / STEPS)) * len(left))
        falls = flow.masked_fill(~left, -1).sort(stable=True).indices[:fallen]
        falls = falls[left[falls]]
        found[falls] = step + 0.99 * flow[falls] / (flow[falls].max() or 1)
        left[falls] = False
    found[left] = STEPS + last[left] / last[left].max()
    parts = zip(plain.weights.items(), found.split(sizes), strict=True)
    return {name: part.reshape(weight.shape) for (name, weight), part in parts}


def of(formula, size):
    """Of gradients of batches of this size."""

    def reference(plain):
        return {name: formula(g, plain.weights[name]) for name, g in plain.gradients(size).items()}

    return reference


def uniform(plain):
    return {name: torch.rand(w.shape, generator=generator(SEED, "random", name)) for name, w in plain.weights.items()}


REFERENCES = {
    "magnitude": lambda plain: {name: weight.abs() for name, weight in plain.weights.items()},
    "random": uniform,
    "gradient-norm": of(lambda g, w: g.sum(0).abs(), EXAMPLES),  # noqa: ARG005
    "snip": of(lambda g, w: (g.sum(0) * w).abs(), EXAMPLES),
    "taylor": of(lambda g, w: (g * w).abs().mean(0), 1),
    "fisher": of(lambda g, w: g.square().mean(0), 1),  # noqa: ARG005
    "fisher-clipped": of(lambda g, w: torch.stack([clipped(one).square() for one in g]).mean(0), 1),  # noqa: ARG005
    "fisher-batch": of(lambda g, w: g.square().mean(0), 4),  # noqa: ARG005
    "grasp": grasp,
    "synflow": synflow,
    "wanda": wanda,
}


def close(found, wanted, rtol=1e-4):
    for name, values in found.items():
        expected = torch.as_tensor(wanted[name]).detach().double()
        atol = rtol / 10 * float(expected.abs().max())
        torch.testing.assert_close(values.double(), expected, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_all_criteria_have_a_reference():
    assert sorted(every_criterion()) == sorted(REFERENCES)
    assert {*criterion_names(), "magnitude", "random"} == {*REFERENCES}


@pytest.mark.parametrize("criterion", sorted(REFERENCES))
def test_scores_are_those_of_plain_autograd(criterion, ready):
    task, state = ready
    found, wanted = scored(task, state, criterion), REFERENCES[criterion](Plain(task, state))
    assert list(found) == list(state.mask)
    assert all(values.dtype == torch.float32 and values.isfinite().all() for values in found.values())
    kept = {name: values * state.mask[name] for name, values in found.items()}
    wanted = {name: wanted[name].detach() * state.mask[name] for name in state.mask}
    assert all(values.count_nonzero() > values.numel() / 5 for values in wanted.values())
    assert criterion != "grasp" or any((values < 0).any() for values in kept.values())
    close(kept, wanted)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("temperature", [1, 200])
def test_options_of_papers_whose_codes_differ(temperature, mode, ready):
    """A temperature of GraSP, and the normalisation of training in SNIP and GraSP, against the same few lines."""
    task, state = ready
    plain = Plain(task, state)
    for layer in plain.model.modules():
        layer.train(mode == "train" and isinstance(layer, nn.BatchNorm2d))
    wanted = {name: (g.sum(0) * plain.weights[name]).abs() for name, g in plain.gradients(EXAMPLES).items()}
    close(scored(task, state, "snip", options={"mode": mode}), wanted)
    close(scored(task, state, "grasp", options={"mode": mode, "temperature": temperature}), grasp(plain, temperature))


@pytest.mark.parametrize("criterion", sorted(REFERENCES))
def test_a_level_keeps_the_promised_number(criterion, ready):
    task, state = ready
    found = scored(task, state, criterion)
    remaining = {name: int(kept.sum()) for name, kept in state.mask.items()}
    everywhere = levels.prune_globally(found, state.mask, "0.3")
    layered = levels.prune_layers(found, state.mask, dict.fromkeys(state.mask, "0.2"))
    total = sum(remaining.values())
    assert sum(int(kept.sum()) for kept in everywhere.values()) == total - round(0.3 * total)
    assert {name: int(kept.sum()) for name, kept in layered.items()} == {
        name: count - round(0.2 * count) for name, count in remaining.items()
    }
    assert not any((after & ~before).any() for after, before in zip(layered.values(), state.mask.values(), strict=True))


@pytest.mark.parametrize("criterion", sorted(REFERENCES))
def test_scores_depend_on_nothing_else_and_change_nothing(criterion, ready):
    task, state = ready
    before = {name: tensor.clone() for name, tensor in {**state.weights, **state.buffers}.items()}
    first = scored(task, state, criterion)
    torch.manual_seed(5)
    generator_state = torch.get_rng_state()
    again = scored(task, state, criterion)
    assert torch.equal(torch.get_rng_state(), generator_state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in {**state.weights, **state.buffers}.items())


@pytest.mark.parametrize("criterion", ["fisher-batch", "grasp", "snip", "synflow", "wanda"])
def test_threads_and_batches_change_the_last_bits_only(criterion, ready, monkeypatch):
    task, state = ready
    first = scored(task, state, criterion)
    monkeypatch.setattr(scores, "_LABELS", 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        close(scored(task, state, criterion), first)
    finally:
        torch.set_num_threads(threads)


def test_examples_follow_from_the_seed_and_are_as_many_as_asked_for(ready):
    task, state = ready
    by_seed = [scored(task, state, "snip", seed=seed) for seed in (1, 2)]
    name = next(iter(state.mask))
    assert not torch.allclose(by_seed[0][name], by_seed[1][name], rtol=1e-2)
    everything = [scored(task, state, "snip", seed=seed, examples=100) for seed in (1, 2)]
    close(everything[0], everything[1])


@pytest.mark.parametrize("criterion", ["grasp", "snip", "synflow", "wanda"])
def test_pruned_weights_are_seen_as_zero(criterion, ready):
    task, state = ready
    dense = dict(state.weights) | {name: state.weights[name] + (~kept).float() for name, kept in state.mask.items()}
    expected, found = scored(task, state, criterion), scored(task, replace(state, weights=dense), criterion)
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_subject_is_changed_for_a_while_only(ready):
    task, state = ready
    values = {**levels.apply_mask(state.weights, state.mask), **state.buffers}
    data = scores.TaskData(task, task.train, None)
    subject = scores.LiveSubject(task.build(0), values, state.mask, data, NoOptions())

    def gradients():
        found = {}
        subject.gradients(SummedGradient, found.__setitem__)
        return found

    first = gradients()
    with suppress(KeyError), subject.changed(lambda _, tensor: tensor + 1), subject.inputs_of_ones():
        assert not any(torch.allclose(now, first[name], rtol=1e-2) for name, now in gradients().items())
        raise KeyError
    assert all(torch.equal(now, first[name]) for name, now in gradients().items())


@pytest.mark.parametrize("criterion", ["magnitude", "random", "synflow"])
def test_a_criterion_without_data_reads_no_example(criterion, ready):
    task, state = ready
    expected = scored(task, state, criterion)
    train = Examples(torch.full_like(task.train.inputs, torch.nan), task.train.labels)
    found = scored(replace(task, train=train), state, criterion, examples=0)
    assert all(torch.equal(found[name], expected[name]) for name in found)


class Text(Toy):
    """Tokens, of which the model says the next."""

    def logits(self, model, inputs):
        return model(input_ids=inputs, use_cache=False).logits[:, :-1]


def streamed_scores(folder, criterion, sequences, scratch):
    file, manifest = TensorFile(folder / WEIGHTS), Manifest.read(folder / MANIFEST)
    weight = fetch_from(file, None, torch.device("cpu"), torch.float32)
    fetch = ChangingFetch(weight)
    model = CausalModel(
        build_skeleton(Checkpoint.open(folder), torch.float32), manifest, fetch, torch.device("cpu"), True
    )
    rule, names, found = scored_criterion(criterion), Selection().names(manifest), {}
    if not rule.needs_data:
        sequences = torch.zeros((1, 2), dtype=torch.long)
    sizes = BatchSizes(len(sequences), rule.batch or 3, 10)
    options = criterion_options(criterion, options_for(criterion), criterion)
    rule.score(StreamedSubject(model, fetch, names, sequences, sizes, weight, scratch, options), found.__setitem__)
    return found


@pytest.mark.parametrize(
    ("architecture", "criteria"),
    [
        ("llama", ["fisher-batch", "fisher-clipped", "grasp", "snip", "synflow", "wanda"]),
        ("gpt2", ["synflow", "wanda"]),
        ("mixtral", ["wanda"]),
    ],
)
def test_text_is_scored_as_a_streamed_checkpoint_is(
    architecture, criteria, source_folder, canonical_folder, token_ids, tmp_path
):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source_folder(architecture), dtype=torch.float32)
    order = torch.randperm(7, generator=generator(SEED, "calibration"))
    ids = token_ids[order.argsort()]
    task = Text(lambda _: deepcopy(model), Examples(ids, ids[:, 1:]), Untouchable(), Untouchable())
    state = start_of(model)
    for criterion in criteria:
        wanted = streamed_scores(canonical_folder(architecture), criterion, token_ids, tmp_path)
        mask = levels.dense_mask(state.weights, wanted)
        found = level_scores(task, state.weights, state.buffers, criterion, mask, 7, SEED, options_for(criterion))
        if criterion == "synflow":  # queries and keys have no flow but for rounding
            wanted |= {name: found[name] for name in wanted if "q_proj" in name or "k_proj" in name}
        close(found, wanted, 2e-2 if criterion == "grasp" else 1e-3)


class Tokens(nn.Module):
    """A model of text that is none of transformers'."""

    def __init__(self):
        super().__init__()
        self.words, self.output = nn.Embedding(5, 3), nn.Linear(3, CLASSES)

    def forward(self, inputs):
        return self.output(self.words(inputs).mean(1))


def test_bad_input_is_refused(ready):
    task, state = ready
    with pytest.raises(UserError, match="'snap' is unknown; use magnitude, random, fisher"):
        scored(task, state, "snap")
    for count in (0, 101):
        with pytest.raises(UserError, match=f"examples: {count} is not allowed; use 1 to 100"):
            scored(task, state, "snip", examples=count)
    diverged = replace(state, weights={name: tensor * torch.nan for name, tensor in state.weights.items()})
    one = {name: tensor.clone() for name, tensor in state.weights.items()}
    one[next(iter(state.mask))].view(-1)[0] = torch.inf
    with pytest.raises(UserError, match=r"'magnitude': scores of .* are not finite"):
        scored(task, replace(state, weights=one), "magnitude")
    for criterion in ("magnitude", "snip"):
        with pytest.raises(UserError, match=f"'{criterion}': scores of .* are not finite: training diverged"):
            scored(task, diverged, criterion)
    with pytest.raises(UserError, match="belongs to another model"):
        scored(task, replace(state, weights={**state.weights, "more": torch.ones(2)}), "snip")


def test_what_a_criterion_cannot_score_is_refused():
    inputs = torch.zeros((9, 4), dtype=torch.long)
    task = Toy(lambda _: Tokens(), Examples(inputs, torch.zeros(9, dtype=torch.long)), Untouchable(), Untouchable())
    state = start_of(Tokens())
    mask = levels.dense_mask(state.weights, ["words.weight", "output.weight"])
    assert level_scores(task, state.weights, {}, "taylor", mask, 9, 0).keys() == mask.keys()
    with pytest.raises(UserError, match=r"'words.weight' of shape \[5, 3\] is not the weight matrix of a linear layer"):
        level_scores(task, state.weights, {}, "wanda", mask, 9, 0)
    with pytest.raises(UserError, match="get_input_embeddings"):
        level_scores(task, state.weights, {}, "synflow", mask, 9, 0)
