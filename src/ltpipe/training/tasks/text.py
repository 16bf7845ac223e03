"""Causal language models of any transformers architecture, on sequences of a text."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.canonical import Checkpoint, config_from
from ltpipe.checkpoints.contents import manifest_of
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.conversations import ChatTemplate
from ltpipe.data.documents import Part, read_documents, split_documents
from ltpipe.data.sequences import all_sequences, check_length, read_tokenizer, spread
from ltpipe.data.vocabulary import train_tokenizer
from ltpipe.pruning.apply import fetch_from
from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError, first_line
from ltpipe.runtime.sources import Source
from ltpipe.training.examples import Examples
from ltpipe.training.levels import Kind
from ltpipe.training.task import ConfiguredTask

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_PARTS = ("train", "validation", "test")
_UNKNOWN_SEQUENCES = 1024
_ABOUT_THE_FILE = ("_name_or_path", "transformers_version")
_NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
"""A tokenizer trained here has no special tokens, and a token treated as padding would never train its embedding."""


@dataclass(frozen=True)
class TextTask(ConfiguredTask):
    """Sequences of text in memory, int64 [sequences, tokens]; every token but a sequence's first is a label.

    Attributes:
        configuration: the model's configuration, as `ltpipe.checkpoints.canonical.config_from` takes it.
        tokenizer: the content of its tokenizer.json.
        prunable: which weights compete.
        initial: pretrained parameters by name, floating-point ones in float32; empty without a checkpoint.
        buffers: the checkpoint's persistent buffers by name.
        train, validation, test: sequences from different documents.
    """

    configuration: Mapping[str, Any]
    tokenizer: str
    prunable: Selection
    initial: Mapping[str, np.ndarray]
    buffers: Mapping[str, np.ndarray]
    train: Examples
    validation: Examples
    test: Examples

    @classmethod
    def prepare(
        cls,
        source: str,
        files: str,
        field: str,
        documents: Part,
        separator: str,
        sequence_length: int,
        evaluation_sequences: int | None,
        validation: str | float,
        test: str | float,
        split_seed: int,
        vocabulary: int,
        prunable: Mapping[str, Any],
        key: str,
        architecture: Mapping[str, Any] | None = None,
        checkpoint: str | None = None,
    ) -> "TextTask":
        """Read and split texts, tokenise each part, cut it into sequences, and check that the model fits them.

        Args:
            source: where the texts are.
            files: shell-style pattern of the files to read in a folder.
            field: key or column that holds the text (`data.documents.read_documents`).
            documents: all documents or those of one part.
            separator: text after each document.
            sequence_length: tokens per sequence; documents are joined and the tail of each part is dropped
                (`data.sequences.all_sequences`).
            evaluation_sequences: largest number of validation sequences and of test sequences, evenly spaced over the
                part; None takes all.
            validation: validation documents, a fraction (`data.documents.split_documents`).
            test: test documents, the same.
            split_seed: seed of the split.
            vocabulary: size of the tokenizer trained on the training documents.
            prunable: preset, include and exclude of a `checkpoints.prunable.Selection`.
            key: the task's configuration key, for messages.
            architecture: `model_type` and any other keys of a transformers configuration, for random initial weights
                and a tokenizer trained here.
            checkpoint: a canonical checkpoint folder, for pretrained weights and their tokenizer. Give either this or
                `architecture`.

        Raises:
            UserError: an option is invalid, or the options do not fit together.
        """
        if unknown := sorted(prunable.keys() - (allowed := [each.name for each in fields(Selection)])):
            raise UserError(f"{key}: prunable.{unknown[0]} is not a key; use {', '.join(allowed)}")
        if (architecture is None) == (checkpoint is None):
            raise UserError(f"{key}: give exactly one of architecture and checkpoint")
        model = _opened(Path(checkpoint), key) if checkpoint is not None else None
        config = _described(architecture or {}, key) if model is None else model.transformers_config()
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and sequence_length > longest:
            raise UserError(f"{key}: sequence_length is {sequence_length}; use at most {longest}, the model's maximum")
        check_length(sequence_length, f"{key}: all")
        template = ChatTemplate(model) if model else None
        texts = list(read_documents(Source(source, key), files, field, documents, template))
        parts = split_documents(texts, validation, test, split_seed, key)
        initial: Mapping[str, np.ndarray] = {}
        buffers: Mapping[str, np.ndarray] = {}
        if model is None:
            tokenizer = train_tokenizer(parts["train"], vocabulary, key)
            config.vocab_size = vocabulary
        else:
            tokenizer = read_tokenizer(model.verified(TOKENIZER))
            initial, buffers = _read_weights(model)
        sequences = {
            part: all_sequences(chosen, tokenizer, sequence_length, separator, f"{key}: {part} documents")
            for part, chosen in parts.items()
        }
        for part in ("validation", "test"):
            found = len(sequences[part])
            sequences[part] = spread(sequences[part], min(evaluation_sequences or found, found))
        examples = {part: _examples(cut) for part, cut in sequences.items()}
        task = cls(_plain(config), tokenizer.to_str(pretty=False), Selection(**prunable), initial, buffers, **examples)
        task._check(key)
        return task

    @classmethod
    def foresee(  # type: ignore[override]  # options are passed by name
        cls,
        pretrained: "PretrainedConfig | None",
        key: str,
        sequence_length: int,
        evaluation_sequences: int | None,
        vocabulary: int,
        prunable: Mapping[str, Any],
        architecture: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> "TextTask":
        """Return the task with blank sequences; the number of training sequences is unknown until the text is read.

        If all validation sequences are evaluated, assume 1,024 of them.
        """
        config = _described(architecture or {}, key) if pretrained is None else pretrained
        if pretrained is None:
            config.vocab_size = vocabulary
        evaluated = _blank(evaluation_sequences or _UNKNOWN_SEQUENCES, sequence_length)
        return cls(_plain(config), "", Selection(**prunable), {}, {}, _blank(1, sequence_length), evaluated, evaluated)

    @classmethod
    def load(cls, file: TensorFile, specification: Mapping[str, Any]) -> "TextTask":
        """Read the sequences; pretrained weights stay in the mapped file until needed."""
        return cls(
            specification["configuration"],
            specification["tokenizer"],
            Selection(**specification["prunable"]),
            _mapped(file, "initial/"),
            _mapped(file, "buffers/"),
            **{part: _examples(file.array(f"{part}/windows")) for part in _PARTS},
        )

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return int32 sequences, pretrained weights and buffers, and a specification of model and tokenizer."""
        arrays = {f"{part}/windows": getattr(self, part).inputs.to(torch.int32).numpy() for part in _PARTS}
        for folder, tensors in {"initial": self.initial, "buffers": self.buffers}.items():
            arrays |= {f"{folder}/{name}": array for name, array in tensors.items()}
        return arrays, {
            "configuration": self.configuration,
            "tokenizer": self.tokenizer,
            "prunable": asdict(self.prunable),
        }

    def build(self, seed: int) -> nn.Module:
        """Build the model with the architecture's own initialisation and the checkpoint's persistent buffers."""
        from transformers import AutoModelForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stable_seed(seed, "initial weights") % 2**63)
            config = config_from(self.configuration)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        for name, buffer in model.named_buffers():
            if name in self.buffers:
                buffer.copy_(torch.tensor(self.buffers[name]))
        return model.train()

    def pretrained(self) -> dict[str, torch.Tensor] | None:
        """Return a copy of the checkpoint's parameters."""
        return {name: torch.tensor(array) for name, array in self.initial.items()} or None

    def logits(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits for every token but a sequence's first, [sequences, tokens - 1, vocabulary]."""
        return model(input_ids=inputs, use_cache=False).logits[:, :-1]

    def kinds(self, model: nn.Module) -> dict[str, Kind]:
        """Return the selected weights: `output` for the output head, tied or not, `hidden` for all others."""
        head = self.output(model).weight
        names = self.prunable.names(manifest_of(model, "built"))
        return {name: "output" if model.get_parameter(name) is head else "hidden" for name in names}

    def output(self, model: Any) -> nn.Module:
        """Return the output head."""
        return model.get_output_embeddings()

    def _check(self, key: str) -> None:
        """Run the model once, so that a mismatch shows before anything is written."""
        largest = max(int(getattr(self, part).inputs.max()) for part in _PARTS)
        try:
            model: Any = self.start(0)
            if largest < (entries := model.get_input_embeddings().weight.shape[0]):
                with torch.no_grad():
                    self.logits(model, self.train.inputs[:1])
        except Exception as error:  # architectures raise all kinds of errors for sizes that do not fit
            raise UserError(f"{key}: the model does not run on this text ({first_line(error)})") from None
        if largest >= entries:
            raise UserError(
                f"{key}: the tokenizer produces token {largest}; the model only has embeddings for {entries} tokens"
            )
        self.kinds(model)


def _described(architecture: Mapping[str, Any], key: str) -> "PretrainedConfig":
    """Return the configuration that a mapping describes, checking its keys, which transformers does not."""
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = architecture.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise UserError(f"{key}: architecture.model_type is {kind!r}; use a model type of transformers, such as llama")
    if "vocab_size" in architecture:
        raise UserError(f"{key}: architecture.vocab_size follows from the tokenizer; set vocabulary instead")
    try:
        known = AutoConfig.for_model(kind).to_dict().keys() | CONFIG_MAPPING[kind].attribute_map.keys()
        config = AutoConfig.for_model(**{**_NO_SPECIAL_TOKENS, **architecture})
    except Exception as error:
        raise UserError(f"{key}: architecture is not a {kind} configuration ({first_line(error)})") from None
    if unknown := sorted(architecture.keys() - known):
        allowed = ", ".join(sorted(known - {"vocab_size", *_ABOUT_THE_FILE}))
        raise UserError(f"{key}: architecture.{unknown[0]} is not a key of a {kind} configuration; use {allowed}")
    return config


def _opened(folder: Path, key: str) -> Checkpoint:
    """A checkpoint that can be trained; raises UserError otherwise."""
    try:
        checkpoint = Checkpoint.open(folder)
        checkpoint.transformers_config()
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    return checkpoint


def _read_weights(checkpoint: Checkpoint) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a checkpoint's parameters, floating-point ones in float32, and persistent buffers, by name."""
    entries = checkpoint.manifest.tensors
    fetch = fetch_from(checkpoint.weights, None, torch.device("cpu"), torch.float32)
    arrays = {name: fetch(name).numpy() for name in sorted(entries, key=str.encode)}
    return (
        {name: array for name, array in arrays.items() if not entries[name].buffer},
        {name: array for name, array in arrays.items() if entries[name].buffer},
    )


def _plain(config: "PretrainedConfig") -> dict[str, Any]:
    """Return a whole configuration, defaults included, so that it means the same in every version of transformers."""
    content = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in content.items() if name not in _ABOUT_THE_FILE} | {"dtype": "float32"}


def _mapped(file: TensorFile, folder: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(folder): file.array(name) for name in file.specs if name.startswith(folder)}


def _examples(sequences: np.ndarray) -> Examples:
    inputs = torch.from_numpy(sequences.astype(np.int64))
    return Examples(inputs, inputs[:, 1:])


def _blank(count: int, length: int) -> Examples:
    inputs = torch.zeros((1, length), dtype=torch.int64).expand(count, length)
    return Examples(inputs, inputs[:, 1:])


TASK = TextTask
