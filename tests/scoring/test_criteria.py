"""Every criterion against a few plain lines in float64, on models that transformers runs itself."""

import numpy as np
import pytest
import torch
from tiny import some_quick

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import as_given, beyond_defaults
from ltpipe.scoring.criterion import criterion_names, criterion_options


def summed_loss(model, ids):
    """Next-token loss summed over the tokens of [sequences, tokens]."""
    return model(input_ids=ids, labels=ids).loss * ids[:, 1:].numel()


def gradients(model, names, batches):
    """Gradients of the summed loss of each batch: name to [batches, *shape]."""
    parameters = [model.get_parameter(name) for name in names]
    found = [torch.autograd.grad(summed_loss(model, ids), parameters, allow_unused=True) for ids in batches]
    return {
        name: torch.stack([torch.zeros_like(weight) if row[i] is None else row[i] for row in found])
        for i, (name, weight) in enumerate(zip(names, parameters, strict=True))
    }


def clipped(gradient):
    mean = gradient / 23
    return mean * min(1, 1 / float(mean.norm()))


FROM_SEQUENCES = {
    "gradient-norm": lambda g, w: g.sum(0).abs(),  # noqa: ARG005
    "snip": lambda g, w: (g.sum(0) * w).abs(),
    "taylor": lambda g, w: (g * w).abs().mean(0),
    "fisher": lambda g, w: g.square().mean(0),  # noqa: ARG005
    "fisher-clipped": lambda g, w: torch.stack([clipped(one).square() for one in g]).mean(0),  # noqa: ARG005
}


def close(found, wanted, rtol=1e-4):
    for name, values in found.items():
        expected = wanted[name].detach().numpy()
        np.testing.assert_allclose(values, expected, rtol=rtol, atol=rtol / 10 * abs(expected).max(), err_msg=name)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "in-memory"])
@pytest.mark.parametrize("architecture", some_quick(("gpt2",)))
def test_criteria_of_the_gradients_of_sequences(architecture, streamed, subject, scores, plain, token_ids):
    model = plain(architecture)
    names = subject(architecture).names
    found = gradients(model, names, token_ids.split(1))
    for criterion, formula in FROM_SEQUENCES.items():
        per_sequence = criterion not in ("gradient-norm", "snip")
        there = scores(criterion, subject(architecture, streamed=streamed, micro_batch=1 if per_sequence else 3))
        close(there, {name: formula(found[name], model.get_parameter(name)) for name in names})


def test_batch_fisher_cancels_inside_a_batch(subject, scores, plain, token_ids):
    model, there = plain("llama"), subject("llama", micro_batch=4)
    batches = gradients(model, there.names, token_ids.split(4))
    close(scores("fisher-batch", there), {name: g.square().mean(0) for name, g in batches.items()})


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "in-memory"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "qwen2", "mixtral"])
def test_wanda_is_weight_times_norm_of_input(architecture, streamed, subject, scores, plain, token_ids):
    model = plain(architecture)
    there = subject(architecture, streamed=streamed, exclude=["*experts*"] if architecture == "mixtral" else ())
    inputs = {}
    for name in there.names:
        module = model.get_submodule(name.removesuffix(".weight"))
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        model(input_ids=token_ids)
    wanted = {}
    for name in there.names:
        (seen,) = inputs[name]
        norms, weight = seen.reshape(-1, seen.shape[-1]).norm(dim=0), model.get_parameter(name)
        wanted[name] = weight.abs() * (norms[:, None] if architecture == "gpt2" else norms)
    close(scores("wanda", there), wanted)


@pytest.mark.parametrize("temperature", [200, 1, None])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_grasp_is_weight_times_hessian_times_gradient(architecture, temperature, subject, scores, plain, token_ids):
    """Against a second derivative by autograd; the rest is the error of a difference quotient in float32."""
    model, there = plain(architecture), subject(architecture)
    model.set_attn_implementation("eager")
    weights = [model.get_parameter(name) for name in there.names]
    logits = model(input_ids=token_ids).logits[:, :-1] / (temperature or 200)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten(), reduction="sum")
    first = torch.autograd.grad(loss, weights, create_graph=True)
    norm = sum((g * g.detach()).sum() for g in first)
    second = torch.autograd.grad(norm, weights)
    found = scores("grasp", there, **{"temperature": temperature} if temperature else {})
    wanted = np.concatenate([(w * h).detach().numpy().reshape(-1) for w, h in zip(weights, second, strict=True)])
    error = np.concatenate([found[name].reshape(-1) for name in there.names]) - wanted
    assert np.linalg.norm(error) <= 1e-3 * np.linalg.norm(wanted)
    assert (wanted < 0).any()


def absolute(model, left):
    """A float64 copy of synaptic flow's network: absolute weights, those that have fallen zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter.abs() * left.get(name, 1))
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(lambda _module, _inputs, output: torch.ones_like(output))
    return model


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "in-memory"])
@pytest.mark.parametrize(("architecture", "density"), [("llama", 0.01), ("gpt2", 0.2), ("qwen2", 0.01)])
def test_synflow_falls_step_by_step(architecture, density, streamed, subject, scores, plain):
    """Three steps by hand: at each the least flow goes, computed among what is left."""
    one = torch.zeros((1, 2), dtype=torch.long)
    there = subject(architecture, streamed=streamed, ids=one)
    found = scores("synflow", there, iterations=3, density=density)
    names, step_of = there.names, {name: values.astype(int) for name, values in found.items()}
    total = sum(values.size for values in found.values())
    left = {name: torch.ones(values.shape, dtype=torch.float64) for name, values in found.items()}
    for step in range(3):
        model = absolute(plain(architecture), left)
        weights = [model.get_parameter(name) for name in names]
        flow = torch.autograd.grad(model(input_ids=one).logits[:, 0].sum(), weights)
        live = np.concatenate(
            [
                np.where(left[name].numpy() > 0, (g * w).abs().detach().numpy(), -1).reshape(-1)
                for name, g, w in zip(names, flow, weights, strict=True)
            ]
        )
        fallen = round((1 - density ** ((step + 1) / 3)) * total)
        limit = np.sort(live)[fallen - 1]
        for name, g, w in zip(names, flow, weights, strict=True):
            value = (g * w).abs().detach().numpy()
            falls = (step_of[name] == step) & (left[name].numpy() > 0)
            assert (value[falls] <= limit * (1 + 1e-4)).all(), name
            assert (value[(step_of[name] > step)] >= limit * (1 - 1e-4)).all(), name
            left[name] = torch.from_numpy((step_of[name] > step).astype(float))
        assert sum(int(part.sum()) for part in left.values()) == total - fallen
        order = np.concatenate([found[name].reshape(-1) for name in names])
        inside = (order >= step) & (order < step + 1) & (live > 0)
        ranks = np.argsort(live[inside], kind="stable")
        assert (np.diff(order[inside][ranks]) >= -2e-4).all()


def test_synflow_says_when_there_is_no_flow(subject, scores, monkeypatch):
    there = subject("llama", ids=torch.zeros((1, 2), dtype=torch.long))
    monkeypatch.setattr("ltpipe.scoring.criteria.synflow._summed", lambda logits, _: logits.sum(-1) * 0)
    with pytest.raises(UserError, match="no weight has a score above 0"):
        scores("synflow", there)


@pytest.mark.parametrize(
    ("criterion", "options", "message"),
    [
        ("grasp", {"temperature": 0}, r"^mine\.temperature: 0 is not allowed; use a number above 0"),
        ("grasp", {"temperature": "warm"}, r"^mine\.temperature: 'warm' is not allowed; use a number"),
        ("grasp", {"temperature": True}, r"^mine\.temperature: True is not allowed; use a number"),
        ("grasp", {"heat": 1}, r"^mine: unknown option 'heat'; use temperature, mode"),
        ("snip", {"mode": "test"}, r"^mine\.mode: 'test' is not allowed; use eval or train"),
        ("synflow", {"iterations": 1.5}, r"^mine\.iterations: 1\.5 is not allowed; use a whole number"),
        ("synflow", {"iterations": 0}, r"^mine\.iterations: 0 is not allowed; use 1 or more"),
        ("synflow", {"density": float("nan")}, r"^mine\.density: nan is not allowed; use a number"),
        ("synflow", {"density": 1}, r"^mine\.density: 1 is not allowed"),
        ("magnitude", {"power": 2}, r"^mine: unknown option 'power'; there are no options"),
    ],
)
def test_options_that_a_criterion_does_not_have_are_one_line(criterion, options, message):
    with pytest.raises(UserError, match=message):
        criterion_options(criterion, options, "mine")


def test_options_are_the_same_in_words_and_in_numbers():
    words = criterion_options("synflow", {"iterations": "7", "density": "0.5"}, "")
    assert words == criterion_options("synflow", {"iterations": 7, "density": 0.5}, "")
    assert criterion_options("synflow", as_given(words), "") == words
    assert not beyond_defaults(criterion_options("synflow", {"iterations": 100}, ""))
    assert beyond_defaults(words) == {"iterations": 7, "density": 0.5}


def test_every_file_is_a_criterion():
    assert criterion_names() == [
        "fisher", "fisher-batch", "fisher-clipped", "gradient-norm", "grasp", "snip", "synflow", "taylor", "wanda",
    ]  # fmt: skip
