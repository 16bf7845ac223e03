"""The loss of a ticket against lm-evaluation-harness, which loads the exported checkpoint with its own model class.

Its rolling log-likelihood predicts every token of a text, the first from a prefix token (the tokenizer's start token).
Ours predicts all tokens of a window but the first. So both say the same of a text that is one window: ours begins with
the start token, as protocol wikitext2 has it, its limit of tokens is no smaller than the window, and the harness is
told to add no start token beside its prefix (add_bos_token=False), which it would predict.
"""

import numpy as np
import pytest
import torch
from structured import make
from tiny import tiny_model, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.data.documents import Document
from ltpipe.data.sequences import TokenSequences, cut_sequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.exporting.formats import export_ticket
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.sources import Source

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed; make test-peers runs this")

TOLERANCE = 1e-5
NAMES = {"model": "m", "data": "d"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A model whose tokenizer starts a text with <bos>, its ticket, and that ticket exported."""
    folder = tmp_path_factory.mktemp("harness")
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer.save_pretrained(folder / "source")
    tiny_model("llama").save_pretrained(folder / "source")
    load_checkpoint(Source(str(folder / "source")), None, "auto", folder / "model")
    make(folder / "model", "layer", "0.5", folder / "mask")
    export_ticket("hf", folder / "mask", Checkpoint.open(folder / "model"), folder / "ticket")
    return folder


def harness(folder, **settings):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=1, add_bos_token=False, **settings)


def rolling(model, texts):
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(texts)]
    return model.loglikelihood_rolling(requests, disable_tqdm=True)


def ours(study, sequences, tmp_path):
    evaluate_checkpoint(Checkpoint.open(study / "model"), sequences, ComputeSettings(device="cpu"), NAMES).write(
        tmp_path / "dense.json"
    )
    return evaluate_checkpoint(
        Checkpoint.open(study / "model"),
        sequences,
        ComputeSettings(device="cpu"),
        NAMES,
        study / "mask",
        tmp_path / "dense.json",
    )


def words(count, seed=0):
    return " ".join(f"w{number}" for number in np.random.default_rng(seed).integers(0, 90, count))


@pytest.mark.filterwarnings("ignore")
def test_a_text_that_is_one_window(study, tmp_path):
    text = words(31)
    document, tokenizer = [Document("0", text)], study / "model" / TOKENIZER
    cut_sequences(document, tokenizer, 32, None, "\n\n", "d", "wikitext2").write(tmp_path / "ids")
    metrics = ours(study, tmp_path / "ids", tmp_path)
    assert (metrics.num_sequences, metrics.tokens) == (1, 31)
    (theirs,) = rolling(harness(study / "ticket", max_length=32), [text])
    assert -theirs / 31 == pytest.approx(metrics.loss, rel=TOLERANCE)
    (dense,) = rolling(harness(study / "source", max_length=32), [text])
    assert -dense / 31 != pytest.approx(metrics.loss, rel=0.01), "the ticket was exported"


@pytest.mark.filterwarnings("ignore")
def test_every_window_of_a_long_text(study, tmp_path):
    """Window by window, its first token being the prefix."""
    ids = torch.randint(3, 96, (6, 24), generator=torch.Generator().manual_seed(1)).int().numpy()
    TokenSequences(ids, 6, 1, sha256_of(study / "model" / TOKENIZER)).write(tmp_path / "ids")
    metrics, vocabulary = ours(study, tmp_path / "ids", tmp_path), tiny_tokenizer()
    for window, loss in zip(ids, metrics.sequence_sums.loss_sum, strict=True):
        model = harness(study / "ticket", max_length=24, prefix_token_id=int(window[0]))
        (theirs,) = rolling(model, [vocabulary.decode(window[1:])])
        assert -theirs == pytest.approx(loss, rel=TOLERANCE)


@pytest.mark.filterwarnings("ignore")
def test_windows_of_a_text_that_is_longer_are_cut_otherwise(study, tmp_path):
    """What the documentation says: the harness predicts first tokens of windows too, from the token before them."""
    text, limit = words(64), 16
    tokenizer, model = tiny_tokenizer(), harness(study / "ticket", max_length=limit)
    stream = np.array([0, *tokenizer(text).input_ids], np.int32)
    overlapping = np.stack([stream[start : start + limit + 1] for start in range(0, 64, limit)])
    TokenSequences(overlapping, 4, 1, sha256_of(study / "model" / TOKENIZER)).write(tmp_path / "ids")
    (theirs,) = rolling(model, [text])
    assert -theirs == pytest.approx(sum(ours(study, tmp_path / "ids", tmp_path).sequence_sums.loss_sum), rel=TOLERANCE)
