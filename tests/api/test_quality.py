"""Quality of tickets against plain loops; nothing of the caller's is changed."""

import math

import numpy as np
import pytest
import torch
from tiny import VOCABULARY, tiny_model
from torch import nn
from torch.nn import functional

import ltpipe
from ltpipe.api import losses
from ltpipe.api.batches import Batch
from ltpipe.runtime.errors import UserError

ARCHITECTURES = ["llama", "gpt2", "mixtral", "bloom", "gemma2"]


def texts(seed=0, sizes=((3, 24), (1, 9), (70, 24))):
    """Batches of unequal size with left padding and ignored labels."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for count, length in sizes:
        ids = torch.randint(3, VOCABULARY, (count, length), generator=generator)
        padding = torch.ones_like(ids)
        padding[0, :3] = 0
        labels = ids.masked_fill(padding == 0, -100)
        labels[:, length // 2] = -100
        batches.append({"input_ids": ids, "attention_mask": padding, "labels": labels})
    return batches


def plain(model, batches, mask=None):
    """The reference: weights masked by hand, one forward with labels for each batch, weighted by labels."""
    saved = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses, hits, counts = [], [], []
    with torch.no_grad():
        for name, kept in (mask or {}).items():
            model.get_parameter(name).mul_(kept)
        for batch in batches:
            output = model(**batch)
            targets = batch["labels"][:, 1:]
            counted = targets != -100
            losses.append(float(output.loss) * int(counted.sum()))
            hits.append(int((output.logits[:, :-1].argmax(-1) == targets)[counted].sum()))
            counts.append(int(counted.sum()))
        for name, parameter in model.named_parameters():
            parameter.copy_(saved[name])
    return sum(losses) / sum(counts), sum(hits) / sum(counts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_plain_transformers_loop(architecture, caplog):
    model, batches = tiny_model(architecture), texts()
    mask = ltpipe.create_magnitude_mask(model, 0.6)
    dense, _ = plain(model, batches)
    loss, accuracy = plain(model, batches, mask)
    assert abs(loss / dense - 1) > 1e-3, "the mask has to matter for this test to mean anything"
    found = ltpipe.compute_lottery_ticket_quality(model, mask, batches)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert found["performance_retention"] == found["quality_score"] == pytest.approx(dense / loss, rel=1e-5)
    total = sum(kept.numel() for kept in mask.values())
    assert found["sparsity"] == pytest.approx(round(0.6 * total) / total, abs=1e-12)
    assert found["num_batches_evaluated"] == 3
    assert list(found) == [
        *("loss", "accuracy", "sparsity", "quality_score", "performance_retention", "num_batches_evaluated")
    ]
    ours = [record for record in caplog.records if record.name.startswith("ltpipe")]
    assert not ours, "none of these architectures needs the logits of a whole batch"


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_logits_of_few_labels_exist_at_a_time(architecture, monkeypatch):
    monkeypatch.setattr("ltpipe.api.losses._LOGITS", 64 * VOCABULARY)
    model, rows = tiny_model(architecture), []
    model.lm_head.register_forward_hook(lambda *call: rows.append(call[-1].numel() // VOCABULARY))
    ltpipe.compute_lottery_ticket_quality(model, {}, texts())
    assert max(rows) <= 64
    counted = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in texts())
    assert sum(rows) <= counted + 2 * 8, "ignored labels need no logits; 8 tokens check the loss, twice"


def test_the_dense_model_and_a_given_baseline():
    model, batches = tiny_model("llama"), texts()
    dense = ltpipe.compute_lottery_ticket_quality(model, {}, batches)
    assert (dense["quality_score"], dense["sparsity"]) == (1.0, 0.0)
    mask = ltpipe.create_magnitude_mask(model, 0.6)
    given = ltpipe.compute_lottery_ticket_quality(model, mask, iter(batches), baseline_performance=dense["loss"])
    assert given == ltpipe.compute_lottery_ticket_quality(model, mask, iter(batches))
    assert ltpipe.compute_lottery_ticket_quality(model, {}, batches, 2 * dense["loss"])["quality_score"] == 2.0


@pytest.mark.parametrize(
    "form",
    [
        lambda dense: dense,
        lambda dense: {"loss": dense["loss"]},
        lambda dense: dense["loss"],
        lambda dense: torch.tensor(dense["loss"], dtype=torch.float64),
        lambda dense: {"loss": np.float64(dense["loss"]), "anything": "else"},
    ],
    ids=["quality", "loss-in-a-dict", "number", "tensor", "numpy-in-a-dict"],
)
def test_a_baseline_in_every_form(form):
    model, batches = tiny_model("llama"), texts(sizes=((3, 24),))
    mask = ltpipe.create_magnitude_mask(model, 0.6)
    dense = ltpipe.compute_lottery_ticket_quality(model, {}, batches)
    alone = ltpipe.compute_lottery_ticket_quality(model, mask, batches)
    assert ltpipe.compute_lottery_ticket_quality(model, mask, batches, baseline_performance=form(dense)) == alone


@pytest.mark.parametrize("baseline", [{}, {"accuracy": 1.0}, {"loss": None}, "2.5", math.nan, math.inf, True, [2.5, 3]])
def test_a_baseline_without_a_finite_loss_is_refused_before_anything_is_read(baseline):
    def loader():
        raise AssertionError("never reached")
        yield

    with pytest.raises(UserError, match=r"baseline_performance: .*use this function's result"):
        ltpipe.compute_lottery_ticket_quality(nn.Linear(2, 2), {}, loader(), baseline)


def test_a_given_baseline_reads_batches_as_they_are_needed():
    model, seen, alive = tiny_model("llama"), [], []
    model.model.register_forward_pre_hook(lambda *_: alive.append(len(seen)))

    def loader():
        for batch in texts():
            seen.append(1)
            yield batch

    ltpipe.compute_lottery_ticket_quality(model, {}, loader(), baseline_performance=3.0, max_batches=2)
    assert len(seen) == 2
    assert alive[0] == 1
    assert alive[-1] == 2


def test_max_batches():
    model, batches = tiny_model("llama"), texts()
    found = ltpipe.compute_lottery_ticket_quality(model, {}, batches, max_batches=2)
    assert found["num_batches_evaluated"] == 2
    assert found["loss"] == pytest.approx(plain(model, batches[:2])[0], rel=1e-5)


def test_text_as_tuples_tensors_and_without_labels():
    model = tiny_model("llama")
    (batch,) = texts(sizes=((4, 24),))
    ids = batch["input_ids"]
    whole, accuracy = plain(model, [{"input_ids": ids, "labels": ids}])
    pair = ltpipe.compute_lottery_ticket_quality(model, {}, [(ids, ids)])
    assert (pair["loss"], pair["accuracy"]) == (pytest.approx(whole, rel=1e-5), pytest.approx(accuracy))
    for raw in [ids, (ids,), {"input_ids": ids}]:
        found = ltpipe.compute_lottery_ticket_quality(model, {}, [raw])
        assert found["loss"] == pair["loss"]
        assert "accuracy" not in found
    labels = ids.masked_fill(batch["attention_mask"] == 0, -100)
    padded, _ = plain(model, [{**batch, "labels": labels}])
    del batch["labels"]
    assert ltpipe.compute_lottery_ticket_quality(model, {}, [batch])["loss"] == pytest.approx(padded, rel=1e-5)


def test_precision_modes():
    """bfloat16: high is what transformers computes in float32, fast is not."""
    model, batches = tiny_model("llama", torch.bfloat16), texts()
    expected, _ = plain(model, batches)
    high = ltpipe.compute_lottery_ticket_quality(model, {}, batches)["loss"]
    fast = ltpipe.compute_lottery_ticket_quality(model, {}, batches, precision_mode="fast")["loss"]
    assert high == pytest.approx(expected, rel=1e-3)  # the cut into micro-batches changes bfloat16 rounding
    assert high != fast
    assert fast == pytest.approx(high, abs=0.1)
    with pytest.raises(UserError, match="precision_mode: 'best' is not allowed; use high or fast"):
        ltpipe.compute_lottery_ticket_quality(model, {}, batches, precision_mode="best")


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))

    def forward(self, values):
        return self.body(values)


def examples():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 6, generator=generator)
    labels = torch.randint(4, (50,), generator=generator)
    labels[3] = -100
    return [(values[start : start + 16], labels[start : start + 16]) for start in range(0, 50, 16)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_plain_classifier(dtype):
    model = Classifier().to(dtype).train()
    batches = [(values.to(dtype), labels) for values, labels in examples()]
    mask = ltpipe.create_magnitude_mask(model, 0.5)
    found = ltpipe.compute_lottery_ticket_quality(model, mask, batches)
    losses, hits = [], []
    with ltpipe.masked(model.eval(), mask), torch.no_grad():
        for values, labels in batches:
            logits = model(values).float()
            losses.append(functional.cross_entropy(logits, labels, reduction="sum", ignore_index=-100).double())
            hits.append((logits.argmax(-1) == labels).sum())
    assert found["loss"] == pytest.approx(float(sum(losses)) / 49, rel=1e-5)
    assert found["accuracy"] == pytest.approx(int(sum(hits)) / 49)
    again = [values for values, _ in batches]
    assert all(torch.equal(values, other.to(dtype)) for values, (other, _) in zip(again, examples(), strict=True))


def test_transformers_classifiers_are_measured_in_float32_and_by_labels():
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

    settings = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(**settings, intermediate_size=48, num_labels=5)
    torch.manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (8, 12))
    sentence = BertForSequenceClassification(config).bfloat16().eval()
    labels = torch.arange(8) % 5
    found = ltpipe.compute_lottery_ticket_quality(sentence, {}, [{"input_ids": ids, "labels": labels}])
    with torch.no_grad():
        logits = sentence(input_ids=ids).logits
    assert found["loss"] == pytest.approx(float(functional.cross_entropy(logits.float(), labels)), rel=1e-6)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(-1) == labels).double().mean()))

    masked_lm = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in masked_lm.parameters():
            parameter.mul_(10)
    targets = torch.where(torch.rand(ids.shape) < 0.3, ids, -100)
    with torch.no_grad():
        output = masked_lm(input_ids=ids, labels=targets)
    found = ltpipe.compute_lottery_ticket_quality(masked_lm, {}, [{"input_ids": ids, "labels": targets}])
    assert found["loss"] == pytest.approx(float(output.loss), rel=1e-5)
    counted = targets != -100
    assert found["accuracy"] == pytest.approx(float((output.logits.argmax(-1) == targets)[counted].double().mean()))


def test_a_causal_model_whose_forward_was_changed_counts_as_it_says(caplog):
    """A loss of its own: the plain forward is used, and the weight of a batch is its number of labels."""
    from transformers import LlamaForCausalLM

    class Doubled(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            if output.loss is not None:
                output.loss = 2 * output.loss
            return output

    model, (batch,) = tiny_model("llama"), texts(sizes=((4, 24),))
    expected, _ = plain(model, [batch])
    model.__class__ = Doubled
    assert ltpipe.compute_lottery_ticket_quality(model, {}, [batch])["loss"] == pytest.approx(2 * expected, rel=1e-5)
    assert "its loss is not the mean cross-entropy of the next token" in caplog.text


def test_shifted_labels_are_told_from_others_where_their_losses_are_close():
    """A model that knows nothing has nearly the same loss on both; padding makes it a plain forward."""
    model = tiny_model("llama")
    for parameter in model.parameters():
        parameter.data.mul_(0.02)
    (batch,) = texts(sizes=((8, 24),))
    expected, accuracy = plain(model, [batch])
    unshifted = functional.cross_entropy(model(**batch).logits.detach().transpose(1, 2), batch["labels"])
    assert 0 < abs(float(unshifted) / expected - 1) < 0.02
    totals = losses.plain_totals(model, Batch.of(batch), torch.device("cpu"), losses.cross_entropy)
    assert totals.loss / totals.count == pytest.approx(expected, rel=1e-5)
    assert totals.correct / totals.count == pytest.approx(accuracy)


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, values):
        return {"loss": (values * self.weight).mean()}


def test_a_model_that_returns_its_loss():
    model = WithLoss()
    batches = [{"values": torch.ones(1)}, {"values": torch.full((3,), 5.0)}]
    found = ltpipe.compute_lottery_ticket_quality(model, {}, batches)
    assert found["loss"] == (1 + 3 * 5) / 4, "weighted by examples"
    assert "accuracy" not in found
    with pytest.raises(UserError, match="returns no loss"):
        ltpipe.compute_lottery_ticket_quality(Classifier(), {}, [values for values, _ in examples()])


@pytest.mark.parametrize(
    ("baseline", "pruned", "score"),
    [(2.5, 3.0, 0.8333), (2.5, 2.5, 1), (3, 2.5, 1.2), (2.5, 0, 0), (0, 0, 1), (0, 2.5, 0)],
)
def test_edge_cases_of_the_score(baseline, pruned, score):
    batch = {"values": torch.tensor([float(pruned)])}
    for given in (baseline, {"loss": baseline}):
        found = ltpipe.compute_lottery_ticket_quality(WithLoss(), {}, [batch], baseline_performance=given)
        assert found["quality_score"] == found["performance_retention"] == pytest.approx(score, abs=1e-4)


class Break(Exception):
    pass


@pytest.mark.parametrize("at", ["forward", "loader"])
def test_everything_comes_back_after_an_exception(at):
    model = tiny_model("llama").train()
    model.model.norm.eval()
    modes = [module.training for module in model.modules()]
    mask = ltpipe.create_magnitude_mask(model, 0.5)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    kept = {name: bits.clone() for name, bits in mask.items()}
    seen = []

    def probe(*_):
        seen.append((model.training, torch.is_grad_enabled(), int(model.lm_head.weight.count_nonzero())))
        if at == "forward" and len(seen) == 7:
            raise Break

    def loader():
        yield from texts()
        raise Break

    model.model.layers[1].register_forward_pre_hook(probe)
    with pytest.raises(Break):
        ltpipe.compute_lottery_ticket_quality(
            model, mask, loader() if at == "loader" else texts(), None if at == "forward" else 3.0
        )
    assert {(training, grad) for training, grad, _ in seen} == {(False, False)}
    assert seen[-1][2] < model.lm_head.weight.numel(), "it was masked when it broke"
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert mask.keys() == kept.keys()
    assert all(torch.equal(bits, kept[name]) for name, bits in mask.items())


def test_a_wrapped_forward_stays_wrapped():
    """accelerate puts its own forward on modules; it must still be there afterwards."""
    model, calls = tiny_model("llama"), []
    own = model.model.forward
    model.model.forward = wrapper = lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs)
    expected, _ = plain(model, texts())
    assert ltpipe.compute_lottery_ticket_quality(model, {}, texts())["loss"] == pytest.approx(expected, rel=1e-5)
    assert model.model.forward is wrapper


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "yields no batch"),
        ([{"input_ids": torch.ones(2, 5).long(), "labels": torch.full((2, 5), -100)}], "nothing to predict"),
        (["text"], "a batch is a str"),
        ([(1, 2, 3)], "a batch is a tuple"),
        (None, r"dataloader: a NoneType is not allowed; use an iterable of batches"),
        (texts()[0], "dataloader: a dict is not allowed; use an iterable"),
        (torch.ones(2, 5).long(), "dataloader: a Tensor is not allowed; use an iterable"),
    ],
)
def test_refuses_batches(batches, message):
    with pytest.raises(UserError, match=message):
        ltpipe.compute_lottery_ticket_quality(tiny_model("llama"), {}, batches)


def test_a_model_without_values_is_refused():
    with pytest.raises(UserError, match="Linear is on the meta device and has no values"):
        ltpipe.compute_lottery_ticket_quality(nn.Linear(3, 3, device="meta"), {}, examples())


def test_refuses_what_is_not_finite_and_no_batches():
    model = tiny_model("llama")
    with pytest.raises(UserError, match="max_batches: 0 is not allowed"):
        ltpipe.compute_lottery_ticket_quality(model, {}, texts(), max_batches=0)
    model.lm_head.weight.data[5] = math.nan
    with pytest.raises(UserError, match="infinite or NaN"):
        ltpipe.compute_lottery_ticket_quality(model, {}, texts())
