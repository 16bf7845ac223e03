"""Safetensors artefacts, recognised by the kind in their metadata."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ltpipe.checkpoints.tensorfile import TensorFile, artefact
from ltpipe.data.sequences import TokenSequences
from ltpipe.inspection.description import Description, Listing, describe_file
from ltpipe.inspection.masks import describe_mask
from ltpipe.pruning.foreign import is_mask
from ltpipe.pruning.histogram import KeyHistogram
from ltpipe.pruning.scorefile import ScoreFile
from ltpipe.runtime.errors import UserError


def describe_tensors(path: Path, checkpoint: Path | None = None) -> Description:
    """Describe a safetensors file.

    Raises:
        UserError: the file is not an artefact of ltpipe, or it is damaged.
    """
    file = TensorFile(path)
    kind = file.metadata.get("kind")
    if kind == "mask" or (kind is None and is_mask(file)):
        return describe_mask(path, checkpoint)
    if kind is not None and kind in _KINDS:
        return _KINDS[kind](path)
    if {"criterion", "checkpoint", "scope", "sparsity"} <= file.metadata.keys():
        return describe_file(path, "exported ticket", _without_format(file.metadata), _tensors(file))
    raise UserError(
        f"{path}: safetensors file of {len(file.specs)} tensors, but not an artefact of ltpipe; for a checkpoint, "
        "inspect the folder"
    )


def _histogram(path: Path) -> Description:
    counted = KeyHistogram.read(path)
    facts = {
        "criterion": counted.criterion,
        "seed": counted.seed,
        "weights": counted.total,
        "bits a score": counted.bits,
        "checkpoint": counted.checkpoint,
    }
    rows = (
        {"tensor": name, "weights": size, "occupied bins": len(counts.bins)}
        for name, size, counts in zip(counted.names, counted.sizes, counted.counts, strict=True)
    )
    return describe_file(path, "histogram of scores", facts, Listing.of("by tensor", rows))


def _scores(path: Path) -> Description:
    scores, file = ScoreFile(path), TensorFile(path)
    facts = {"weights": sum(spec.size for spec in file.specs.values()), **_without_format(file.metadata)}
    rows = (
        {
            "tensor": name,
            "smallest": float(scores.array(name).min(initial=0.0)),
            "mean": float(scores.array(name).mean(dtype="float64")),
            "largest": float(scores.array(name).max(initial=0.0)),
        }
        for name in scores.names
    )
    return describe_file(path, "set of scores", facts, Listing.of("by tensor", rows))


def _sequences(path: Path) -> Description:
    data = TokenSequences.read(path)
    count, length = data.input_ids.shape
    facts = {
        "sequences": count,
        "tokens a sequence": length,
        "predicted tokens": count * (length - 1),
        "sequences in the text": data.available,
        "documents": data.documents,
        "protocol": data.protocol,
        "BOS": data.bos,
        "tokenizer": data.tokenizer,
    }
    return describe_file(path, "set of token sequences", facts)


def _requests(path: Path) -> Description:
    from ltpipe.tasks.requests import KIND, Requests

    found = Requests.read(path)
    facts = {
        **found.facts,
        **{f"requests of kind {kind}": count for kind, count in found.kinds},
        "windows": len(found.lengths),
        "tokens": len(found.tokens),
        "predicted tokens": int(found.predicted.sum()),
        "tokenizer": found.tokenizer,
    }
    return describe_file(path, KIND, facts)


def _top_tokens(path: Path) -> Description:
    from ltpipe.evaluation.agreement import FORMAT, KIND

    with artefact(path, KIND, FORMAT) as file:
        predictions, k = file.array("indices").shape
        facts = {"predictions": predictions, "k": k, **_without_format(file.metadata)}
    return describe_file(path, KIND, facts)


def _state(path: Path) -> Description:
    from ltpipe.training.state import FORMAT, KIND

    with artefact(path, KIND, FORMAT) as file:
        parts: Counter[str] = Counter()
        for name, spec in file.specs.items():
            parts[name.partition("/")[0]] += spec.size
        curve = json.loads(file.metadata["validation"])
        kept = sum(int(file.array(name).sum()) for name in file.specs if name.startswith("mask/"))
        facts = {
            "iteration": int(file.metadata["iteration"]),
            "weights": parts["weights"],
            "kept": kept if parts["mask"] else None,
            "maskable": parts["mask"] or None,
            "optimizer": "kept" if parts["optimizer"] else "fresh",
            "resumable training": file.metadata["training"] or None,
        }
    return describe_file(path, KIND, facts, Listing.of("validation", curve))


def _solution(path: Path) -> Description:
    from ltpipe.pruning.solution import ERRORS, FORMAT, KIND, MASKS

    with artefact(path, KIND, FORMAT) as file:
        names = json.loads(file.metadata["names"])
        others = sorted(file.specs.keys() - {*names, ERRORS, MASKS})
        listed = names if ERRORS in file.specs else [name for name in names if name in file.specs]
        sizes = {name: file.specs[name].size if name in file.specs else 0 for name in [*listed, *others]}
        facts = {
            "criterion": file.metadata["criterion"],
            "scope": file.metadata["scope"],
            "sparsity": file.metadata["sparsity"],
            "changed weights": sum(sizes.values()),
            "calibration or training sequences": file.metadata["sequences"],
            **json.loads(file.metadata["options"]),
        }
        rows: list[dict[str, Any]] = [{"tensor": name, "changed weights": size} for name, size in sizes.items()]
        if ERRORS in file.specs:
            for row, (before, after) in zip(rows, file.array(ERRORS).tolist(), strict=True):
                row |= {"error of the mask": before, "error": after}
        return describe_file(path, KIND, facts, Listing.of("by tensor", rows))


def _solved_block(path: Path) -> Description:
    from ltpipe.solving.resume import FORMAT, KIND

    with artefact(path, KIND, FORMAT) as file:
        errors = json.loads(file.metadata["errors"])
        rows = (
            {"tensor": name, "kept": file.specs[f"values/{name}"].size, "error of the mask": before, "error": after}
            for name, (before, after) in errors.items()
        )
        return describe_file(path, KIND, {"block": path.stem}, Listing.of("by tensor", rows))


def _task(path: Path) -> Description:
    from ltpipe.training.task import FORMAT, KIND

    with artefact(path, KIND, FORMAT) as file:
        return describe_file(path, KIND, {"task": file.metadata["task"]}, _tensors(file))


_KINDS: Mapping[str, Callable[[Path], Description]] = {
    "histogram": _histogram,
    "set of scores": _scores,
    "set of token sequences": _sequences,
    "set of requests": _requests,
    "set of top-k tokens": _top_tokens,
    "solution": _solution,
    "solved block": _solved_block,
    "training state": _state,
    "task": _task,
}


def _tensors(file: TensorFile) -> Listing:
    rows = (
        {"tensor": name, "dtype": spec.dtype, "shape": " × ".join(map(str, spec.shape)), "bytes": spec.end - spec.begin}
        for name, spec in file.specs.items()
    )
    return Listing.of("tensors", rows)


def _without_format(metadata: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name not in ("format", "kind")}
