"""The plain loop that a study is compared with: one process, one model, its weights masked and put back in turn.

This is what one would write by hand with torch and transformers, without files: no artefacts, intervals or report.
"""

import argparse
import json
from collections.abc import Iterator

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer


def prunable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the weight matrices of the linear layers inside the blocks."""
    return {
        f"{name}.weight": module.weight
        for name, module in model.model.layers.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def windows(tokenizer, text: str, count: int, length: int) -> torch.Tensor:
    """Return the first sequences of a text, int64 [count, length + 1]."""
    tokens = tokenizer(text, return_tensors="pt")["input_ids"][0]
    return tokens[: count * (length + 1)].view(count, length + 1)


@torch.inference_mode()
def loss(model: torch.nn.Module, sequences: torch.Tensor) -> float:
    """Return the mean next-token loss of token sequences, one sequence at a time, nats."""
    total = 0.0
    for sequence in sequences:
        logits = model(sequence[None, :-1]).logits[0].float()
        total += functional.cross_entropy(logits, sequence[1:], reduction="sum").double().item()
    return total / sequences[:, 1:].numel()


@torch.inference_mode()
def masks(weights: dict[str, torch.nn.Parameter], scope: str, sparsities: list[float]) -> Iterator[dict]:
    """Yield a bool mask of every weight for each sparsity, by magnitude."""
    for sparsity in sparsities:
        if scope == "layer":
            magnitudes = {name: weight.abs() for name, weight in weights.items()}
            cuts = {name: value.flatten().kthvalue(max(1, round(sparsity * value.numel()))).values
                    for name, value in magnitudes.items()}  # fmt: skip
        else:
            every = torch.cat([weight.abs().flatten() for weight in weights.values()])
            cuts = dict.fromkeys(weights, every.kthvalue(max(1, round(sparsity * every.numel()))).values)
        yield {name: weight.abs() > cuts[name] for name, weight in weights.items()}


def main() -> None:
    """Evaluate the dense model and every ticket; print the losses as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--scopes", nargs="+", required=True)
    parser.add_argument("--sparsities", nargs="+", type=float, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(given.model).eval()
    with open(given.text, encoding="utf-8") as file:  # noqa: PTH123
        sequences = windows(AutoTokenizer.from_pretrained(given.model), file.read(), given.count, given.length)
    weights = prunable(model)
    losses = [loss(model, sequences)]
    with torch.inference_mode():
        for scope in given.scopes:
            for kept in masks(weights, scope, given.sparsities):
                before = {name: weight.clone() for name, weight in weights.items()}
                for name, weight in weights.items():
                    weight.mul_(kept[name])
                losses.append(loss(model, sequences))
                for name, weight in weights.items():
                    weight.copy_(before[name])
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
