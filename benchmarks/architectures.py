"""Write the page of architectures: every causal class of the installed transformers, streamed and compared.

Each class gets its own process, with a time limit, and a small random model of its default configuration. The model
takes the same path as a user's: `save_pretrained`, the load stage with its guard, the evaluation stage block by block.
The loss of every sequence is then compared with that of `AutoModelForCausalLM.from_pretrained`.
"""

import argparse
import logging
import multiprocessing
import os
import time
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

_SECONDS = 120
"""Time limit for a class."""
_SEQUENCES, _TOKENS, _VOCABULARY = 5, 24, 256
_PRELOADED = ["benchmarks.architectures", "ltpipe.evaluation.evaluate", "transformers.models.gpt2.modeling_gpt2"]
"""What every class's process would import."""
_EQUAL = 1e-4
"""Nats per token by which rounding may change losses; real faults change them by more than a thousandth."""
_SMALL = 2_000_000

OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    **{
        name: {"is_decoder": True}
        for name in (
            "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
            "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta",
            "xlm-roberta-xl", "xmod",
        )
    },
    "bamba": {"attn_layer_indices": [1, 3]},
    "deepseek_v2": {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
    "gpt_oss": {"hidden_size": 2048, "intermediate_size": 2048},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 16},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8.0}},
    "xlm": {"causal": True},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
}  # fmt: skip
"""What the default configuration of a class needs to make a working causal language model."""

_INTRO = """\
# Architectures

`make architectures` (`python -m benchmarks.architectures`) writes this page; run it again rather than
edit the page. It judges a new release of transformers in ten minutes. [walks.md](walks.md) explains
what is compared, and what happens to a model that is not streamed.

transformers {version}: {counts}.

| type | class | | largest difference | seconds | recovery | why |
|---|---|---|---:|---:|---|---|"""
_OUTRO = """
equal
: the model is streamed block by block, in parts, and the loss of every sequence equals that of
  transformers; the difference is in nats per token.

in memory
: the guard found that the streamed walk would not be equal, or that the blocks do not run one by
  one. The model is loaded whole, and then the losses are equal. The manifest and `execution` in the
  metrics give the reason.

refused
: the load stage refuses the model in one line.

recovery
: *equal*: in every [mode](recovery.md), the model that is trained gives the losses of the streamed
  ticket before its first step, and has gradients. Otherwise what is refused in one line.

not built
: transformers cannot build a model with the class's default configuration, or cannot run it on
  tokens alone."""


@dataclass(frozen=True)
class Row:
    """The result for a class: `verdict` is equal, in memory, refused, not built, or WRONG.

    `recovered` is that of recoveries: equal, or the modes that are refused; WRONG with a reason.
    """

    name: str
    architecture: str
    verdict: str
    difference: float | None
    seconds: float
    reason: str = ""
    recovered: str = ""

    def __str__(self) -> str:
        difference = "" if self.difference is None else f"{self.difference:.0e}"
        cells = [
            self.name,
            self.architecture,
            self.verdict,
            difference,
            f"{self.seconds:.1f}",
            self.recovered,
            self.reason,
        ]
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def names() -> dict[str, str]:
    """Return every model type with a causal class, and the class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()))


def sweep(wanted: Collection[str] = ()) -> list[Row]:
    """Judge every class, or those of the `wanted` model types."""
    # A server forks the processes: this one may have used threads, which forks cannot use again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    rows = []
    for name, architecture in names().items():
        if wanted and name not in wanted:
            continue
        ours, theirs = context.Pipe(duplex=False)
        start = time.perf_counter()
        process = context.Process(target=_child, args=(name, architecture, theirs))
        process.start()
        theirs.close()
        row, reason = None, f"no verdict after {_SECONDS} s"
        if ours.poll(_SECONDS):
            try:
                row = ours.recv()
            except EOFError:
                process.join()
                reason = f"ended without a verdict, with status {process.exitcode}"
        process.join(0 if row is None else _SECONDS)
        process.kill()
        process.join()
        rows.append(row or Row(name, architecture, "WRONG", None, time.perf_counter() - start, reason))
        print(rows[-1], flush=True)
    return rows


def judge_class(name: str, architecture: str, folder: Path) -> Row:
    """Judge one class, in an empty folder."""
    start = time.perf_counter()

    def row(verdict: str, difference: float | None = None, reason: str = "") -> Row:
        return Row(name, architecture, verdict, difference, time.perf_counter() - start, _one_line(reason))

    from ltpipe.runtime.errors import UserError

    try:
        ids, wanted = _save(name, folder / "source")
    except Exception as error:  # a class can raise anything
        return row("not built", reason=str(error))
    try:
        found, execution = _evaluate(folder, ids)
    except UserError as error:
        return row("refused", reason=str(error).partition(": ")[2])
    except Exception as error:  # a user would see a traceback
        return row("WRONG", reason=f"{type(error).__name__}: {error}")
    difference = float((found - wanted).abs().max())
    if not difference <= _EQUAL:
        return row("WRONG", difference, execution)
    try:
        recovered = _recovered(folder, ids)
    except Exception as error:  # a user would see a traceback
        return row("WRONG", difference, f"recovery: {type(error).__name__}: {error}")
    verdict, reason = ("equal", "") if execution == "streamed" else ("in memory", execution[11:])
    return replace(row(verdict, difference, reason), recovered=recovered)


def _child(name: str, architecture: str, pipe: Any) -> None:
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder, Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
        pipe.send(judge_class(name, architecture, Path(folder)))


def _save(name: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Save a small random model as a user would; return tokens and each sequence's mean loss in transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from ltpipe.streaming.guard import random_model
    from ltpipe.streaming.small import small_configs

    config = AutoConfig.for_model(name, **OVERRIDES.get(name, {}))
    failure: Exception | None = None
    for small in small_configs(config, _SMALL):
        try:
            known = range(min(_VOCABULARY, _vocabulary(small)))
            words = torch.tensor(sorted(set(known) - set(_special(small.to_dict()))))
            chosen = torch.randint(len(words), (_SEQUENCES, _TOKENS), generator=torch.Generator().manual_seed(3))
            ids = words[chosen]
            random_model(small).save_pretrained(folder)
            _tokenizer().save_pretrained(folder)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            with torch.no_grad():
                logits = model(input_ids=ids).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            return ids, losses.view(_SEQUENCES, -1).double().mean(1)
        except Exception as error:  # a class shrunk too far can raise anything
            failure = failure or error
    raise failure or RuntimeError("no small configuration was found")


def _vocabulary(config: Any) -> int:
    return config.get_text_config().vocab_size


def _special(content: Mapping[str, Any]) -> Iterator[int]:
    """Yield special tokens, such as an image's, that a language model has no component for."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _special(value)
        elif type(value) is int and name.endswith(("token_id", "token_index")):
            yield value


def _evaluate(folder: Path, ids: torch.Tensor) -> tuple[torch.Tensor, str]:
    """Return each sequence's mean loss from the stages, and how the model was executed."""
    from ltpipe.checkpoints.canonical import Checkpoint
    from ltpipe.checkpoints.filenames import TOKENIZER
    from ltpipe.checkpoints.load import load_checkpoint
    from ltpipe.data.sequences import TokenSequences
    from ltpipe.runtime.files import sha256_of
    from ltpipe.runtime.sources import Source
    from ltpipe.streaming.guard import judge

    load_checkpoint(Source(str(folder / "source"), "source"), None, "float32", folder / "model", judge)
    tokenizer = sha256_of(folder / "model" / TOKENIZER)
    TokenSequences(ids.int().numpy(), len(ids), 1, tokenizer).write(folder / "sequences")
    metrics = _metrics(Checkpoint.open(folder / "model"), folder)
    metrics.write(folder / "dense.json")
    return _means(metrics), metrics.execution


def _losses(checkpoint: Any, folder: Path, mask: Path) -> torch.Tensor:
    """Return each sequence's mean loss of a ticket."""
    return _means(_metrics(checkpoint, folder, mask, folder / "dense.json"))


def _metrics(checkpoint: Any, folder: Path, *ticket: Path) -> Any:
    from ltpipe.evaluation.computing import ComputeSettings
    from ltpipe.evaluation.evaluate import evaluate_checkpoint

    settings = ComputeSettings(micro_batch=2, device="cpu", threads=1)
    return evaluate_checkpoint(checkpoint, folder / "sequences", settings, {"model": "m", "data": "d"}, *ticket)


def _means(metrics: Any) -> torch.Tensor:
    sums = torch.tensor(metrics.sequence_sums.loss_sum, dtype=torch.float64)
    return sums / torch.from_numpy(np.array(metrics.sequence_sums.tokens))


def _recovered(folder: Path, ids: torch.Tensor) -> str:
    """Compare the models that recoveries train with the ticket, as the stages make and evaluate it."""
    from ltpipe.checkpoints.canonical import Checkpoint
    from ltpipe.checkpoints.prunable import Selection
    from ltpipe.pruning.build import make_mask
    from ltpipe.pruning.histogram import make_histogram
    from ltpipe.pruning.masks import read_mask
    from ltpipe.recovery.model import trained_model
    from ltpipe.recovery.recover import next_token_loss
    from ltpipe.recovery.settings import LEARNING_RATES, RecoverySettings
    from ltpipe.runtime.errors import UserError

    checkpoint, mask = Checkpoint.open(folder / "model"), folder / "mask"
    if checkpoint.manifest.walks.gradients:
        return "no gradients"
    try:
        make_histogram(checkpoint, "magnitude", None, Selection()).write(folder / "counts")
    except UserError:
        return "nothing to prune"
    make_mask(checkpoint, folder / "counts", "layer", "0.5", mask)
    wanted = _losses(checkpoint, folder, mask)
    refused = {}
    for mode in LEARNING_RATES:
        settings = RecoverySettings(mode, 0.0, 1)  # type: ignore[arg-type]
        try:
            model = trained_model(checkpoint, read_mask(mask), None, settings, torch.device("cpu")).model.eval()
        except UserError as error:
            refused[mode] = str(error)
            continue
        for one, loss in zip(ids, wanted, strict=True):
            own = next_token_loss(model, one[None], one[None, 1:]).detach()
            if not abs(float(own) - float(loss)) <= _EQUAL:
                raise ValueError(f"mode {mode}: loss {float(own)}, of the ticket {float(loss)}")
        next_token_loss(model, ids, ids[:, 1:]).backward()
        if not any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters()):
            raise ValueError(f"mode {mode}: no gradients")
    return "; ".join(f"no {mode}" for mode in refused) or "equal"


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(_VOCABULARY)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), unk_token="w0")


def _one_line(reason: str) -> str:
    return " ".join(reason.split())[:200]


def page(rows: list[Row]) -> str:
    """Return the whole page."""
    import transformers

    counts = Counter(row.verdict for row in rows)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    intro = _INTRO.format(version=transformers.__version__, counts=f"{len(rows)} model types, {said}")
    return "\n".join([intro, *map(str, rows), _OUTRO, ""])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="the page to write; by default rows are only printed")
    parser.add_argument("types", nargs="*", help="model types to judge; by default all")
    arguments = parser.parse_args()
    text = page(sweep(arguments.types))
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
