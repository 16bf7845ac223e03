"""The plain loop that a study is compared with: one process, one model, its weights masked and put back in turn.

This is what one would write by hand with torch and transformers, without files: no artefacts, intervals or report.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase


def prunable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the weight matrices of the linear layers inside the blocks."""
    return {
        f"{name}.weight": module.weight
        for name, module in model.model.layers.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def windows(tokenizer: PreTrainedTokenizerBase, text: str, count: int, length: int) -> torch.Tensor:
    """Return the first sequences of a text, int64 [count, length]."""
    tokens = tokenizer(text, return_tensors="pt")["input_ids"][0]
    return tokens[: count * length].view(count, length)


@torch.inference_mode()
def loss(model: torch.nn.Module, sequences: torch.Tensor) -> float:
    """Return the mean next-token loss of token sequences, one sequence at a time, nats."""
    total = 0.0
    for sequence in sequences:
        logits = model(sequence[None, :-1]).logits[0].float()
        total += functional.cross_entropy(logits, sequence[1:], reduction="sum").double().item()
    return total / sequences[:, 1:].numel()


def masks(
    weights: dict[str, torch.nn.Parameter], criterion: str, scope: str, sparsities: list[float]
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a bool mask of every weight for each sparsity."""
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: weight.abs() if criterion == "magnitude" else torch.rand(weight.shape, generator=generator)
        for name, weight in weights.items()
    }
    every = scores if scope == "layer" else {"": torch.cat([score.flatten() for score in scores.values()])}
    for sparsity in sparsities:
        cuts = {name: torch.kthvalue(score.flatten(), max(1, round(sparsity * score.numel()))).values
                for name, score in every.items()}  # fmt: skip
        yield {name: score > cuts[name if scope == "layer" else ""] for name, score in scores.items()}


def load(model: Path) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a folder or a GGUF file, the model in float32."""
    place, options = (model.parent, {"gguf_file": model.name}) if model.suffix == ".gguf" else (model, {})
    loaded = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options)
    return loaded.eval(), AutoTokenizer.from_pretrained(place, **options)


@torch.inference_mode()
def main() -> None:
    """Evaluate the dense model and every ticket; print the losses as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--criteria", nargs="+", required=True)
    parser.add_argument("--scopes", nargs="+", required=True)
    parser.add_argument("--sparsities", nargs="+", type=float, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load(given.model)
    sequences = windows(tokenizer, given.text.read_text(encoding="utf-8"), given.count, given.length)
    weights = prunable(model)
    losses = [loss(model, sequences)]
    for criterion, scope in product(given.criteria, given.scopes):
        for kept in masks(weights, criterion, scope, given.sparsities):
            before = {name: weight.clone() for name, weight in weights.items()}
            for name, weight in weights.items():
                weight.mul_(kept[name])
            losses.append(loss(model, sequences))
            for name, weight in weights.items():
                weight.copy_(before[name])
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
