"""Perplexity by the protocol of the literature, against the few lines that SparseGPT and Wanda measure it with.

WikiText-2 itself does not come with the tests: the protocol is the same for any text.
"""

import pandas as pd
import pytest
import torch
from byhand import masked_by_hand
from structured import make
from tiny import ARCHITECTURES, random_model
from tokenizers.processors import TemplateProcessing

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.data.documents import Document, read_documents
from ltpipe.data.sequences import cut_sequences
from ltpipe.data.vocabulary import train_tokenizer
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.pruning.masks import load_mask
from ltpipe.runtime.sources import Source

LENGTH = 32
LINES = [
    "",
    " = Heading = \n",
    "",
    *(f" The {n} foxes and {n * n} dogs ran, as {n % 7} do . \n" for n in range(60)),
    "",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A model whose tokenizer starts a text with a special token, and rows of a text as WikiText-2 has them."""
    import transformers

    folder = tmp_path_factory.mktemp("protocol")
    backend = train_tokenizer([Document("0", "\n\n".join(LINES))], 300, "test")
    backend.add_special_tokens(["<s>"])
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))])
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(folder / "source")
    config = transformers.LlamaConfig(**{**ARCHITECTURES["llama"][1], "vocab_size": backend.get_vocab_size()})
    random_model(config, 0).save_pretrained(folder / "source")
    load_checkpoint(Source(str(folder / "source")), None, "auto", folder / "model")
    pd.DataFrame({"text": LINES}).to_parquet(folder / "test.parquet")
    documents = read_documents(Source(str(folder / "test.parquet")), "**/*", "text", "all")
    tokenizer = folder / "model" / TOKENIZER
    cut_sequences(documents, tokenizer, LENGTH, None, "\n\n", "data.wiki", "wikitext2").write(folder / "windows")
    return folder


def published(model, tokenizer, rows, seqlen):
    """Perplexity and number of windows as the published code has them (`eval_ppl_wikitext` of Wanda)."""
    ids = tokenizer("\n\n".join(rows), return_tensors="pt").input_ids
    windows = ids.numel() // seqlen
    losses = []
    for window in range(windows):
        inputs = ids[:, window * seqlen : (window + 1) * seqlen]
        with torch.no_grad():
            losses.append(model(inputs, labels=inputs).loss.float() * seqlen)
    return torch.exp(torch.stack(losses).sum() / (windows * seqlen)).item(), windows


def test_perplexity_is_that_of_the_published_protocol(study, tmp_path):
    from transformers import AutoTokenizer

    tokenizer, names = AutoTokenizer.from_pretrained(study / "source"), {"model": "m", "data": "wiki"}
    dense = evaluate_checkpoint(Checkpoint.open(study / "model"), study / "windows", ComputeSettings(), names)
    dense.write(tmp_path / "dense.json")
    mask = make(study / "model", "layer", "0.5", tmp_path / "mask")
    ticket = evaluate_checkpoint(
        Checkpoint.open(study / "model"), study / "windows", ComputeSettings(), names, mask, tmp_path / "dense.json"
    )
    for found, kept in ((dense, None), (ticket, load_mask(mask))):
        perplexity, windows = published(masked_by_hand(study / "source", kept), tokenizer, LINES, LENGTH)
        assert found.perplexity == pytest.approx(perplexity, rel=1e-5)
        assert (found.protocol, found.num_sequences, found.tokens) == ("wikitext2", windows, windows * (LENGTH - 1))
        assert windows > 20
        assert f"wikitext2 perplexity {found.perplexity:.4f} over {windows} sequences" in str(found)


def test_the_text_is_tokenised_once(study):
    """Documents by themselves give other tokens: no special token, and other ones where documents meet."""
    documents = [Document(str(index), line) for index, line in enumerate(LINES)]
    tokenizer = study / "model" / TOKENIZER
    joined = cut_sequences(documents, tokenizer, 2, None, "\n\n", "data.wiki", "wikitext2").input_ids.reshape(-1)
    apart = cut_sequences(documents, tokenizer, 2, None, "\n\n", "data.wiki").input_ids.reshape(-1)
    assert joined[1:][: len(apart)].tolist() != apart[: len(joined) - 1].tolist()
