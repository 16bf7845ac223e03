"""Causal language models of any architecture that transformers knows, on windows of a text."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.canonical import checked, open_weights
from ltpipe.checkpoints.contents import manifest_of
from ltpipe.checkpoints.layout import CONFIG, MANIFEST, TOKENIZER
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.conversations import ChatTemplate
from ltpipe.data.documents import Part, read_documents, split_documents
from ltpipe.data.sequences import check_length, cut_windows, read_tokenizer, spread
from ltpipe.data.vocabulary import train_tokenizer
from ltpipe.pruning.apply import fetch_from
from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source
from ltpipe.training.examples import Examples
from ltpipe.training.levels import Kind
from ltpipe.training.task import ConfiguredTask

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_PARTS = ("train", "validation", "test")
_UNKNOWN_WINDOWS = 1024
_ABOUT_THE_FILE = ("_name_or_path", "transformers_version")
_NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
"""A tokenizer trained here has none, and the embedding of what a model takes for padding would never be trained."""


@dataclass(frozen=True)
class TextTask(ConfiguredTask):
    """Windows of text in memory, int64 [windows, tokens]; each but the first token of a window is a label.

    Attributes:
        configuration: of the model, as `transformers.AutoConfig.for_model` takes it.
        tokenizer: the content of its tokenizer.json.
        prunable: which weights compete.
        initial: pretrained parameters by name, float32 where they are of floating point; empty without a checkpoint.
        buffers: the checkpoint's persistent buffers by name.
        train, validation, test: windows of different documents.
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
        """Read and split texts, tokenise each part and cut it into windows; the model has to fit them.

        Args:
            source: of the texts.
            files: shell-style pattern of the files to read in a folder.
            field: key or column that holds the text (`data.documents.read_documents`).
            documents: all, or those of one part.
            separator: text after each document.
            sequence_length: tokens a window; documents are joined, the tail of each part is dropped
                (`data.sequences.cut_windows`).
            evaluation_sequences: largest number of validation windows, and of test windows, at even distances over
                the part; None takes all.
            validation: fraction of the documents (`data.documents.split_documents`).
            test: the same.
            split_seed: of the split.
            vocabulary: entries of a tokenizer that is trained on the training documents.
            prunable: preset, include and exclude of a `checkpoints.prunable.Selection`.
            key: configuration key of the task, for messages.
            architecture: `model_type` and any other keys of a transformers configuration; random initial weights, and
                a tokenizer that is trained here.
            checkpoint: a canonical checkpoint folder: pretrained weights, and their own tokenizer. Exactly one of the
                two is given.

        Raises:
            UserError: anything of this does not fit together.
        """
        if unknown := sorted(prunable.keys() - (allowed := [each.name for each in fields(Selection)])):
            raise UserError(f"{key}: prunable.{unknown[0]} is no key; allowed are {', '.join(allowed)}")
        if architecture is not None and checkpoint is None:
            config = _described(architecture, key)
        elif checkpoint is not None and architecture is None:
            config = _read_config(Path(checkpoint), key)
        else:
            raise UserError(f"{key}: architecture and checkpoint are to be given one without the other")
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and sequence_length > longest:
            raise UserError(f"{key}: sequence_length is {sequence_length}; the model reads at most {longest} tokens")
        check_length(sequence_length, f"{key}: all")
        template = ChatTemplate(Path(checkpoint)) if checkpoint is not None else None
        texts = list(read_documents(Source(source, key), files, field, documents, template))
        parts = split_documents(texts, validation, test, split_seed, key)
        initial: Mapping[str, np.ndarray] = {}
        buffers: Mapping[str, np.ndarray] = {}
        if checkpoint is None:
            tokenizer = train_tokenizer(parts["train"], vocabulary, key)
            config.vocab_size = vocabulary
        else:
            tokenizer = read_tokenizer(checked(Path(checkpoint), TOKENIZER))
            initial, buffers = _read_weights(Path(checkpoint))
        windows = {
            part: cut_windows(chosen, tokenizer, sequence_length, separator, f"{key}: {part} documents")
            for part, chosen in parts.items()
        }
        for part in ("validation", "test"):
            windows[part] = spread(windows[part], min(evaluation_sequences or len(windows[part]), len(windows[part])))
        examples = {part: _examples(cut) for part, cut in windows.items()}
        task = cls(_plain(config), tokenizer.to_str(pretty=False), Selection(**prunable), initial, buffers, **examples)
        task._check(key)
        return task

    @classmethod
    def foresee(  # type: ignore[override]  # its options come by name
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
        """The model, and windows of no text: how many training windows there are is not known before it is read.

        Where all validation windows are evaluated, there are taken to be 1,024.
        """
        config = _described(architecture or {}, key) if pretrained is None else pretrained
        if pretrained is None:
            config.vocab_size = vocabulary
        evaluated = _windows(evaluation_sequences or _UNKNOWN_WINDOWS, sequence_length)
        return cls(
            _plain(config), "", Selection(**prunable), {}, {}, _windows(1, sequence_length), evaluated, evaluated
        )

    @classmethod
    def load(cls, file: TensorFile, specification: Mapping[str, Any]) -> "TextTask":
        """Read the windows; pretrained weights stay in the mapped file until they are asked for."""
        return cls(
            specification["configuration"],
            specification["tokenizer"],
            Selection(**specification["prunable"]),
            _mapped(file, "initial/"),
            _mapped(file, "buffers/"),
            **{part: _examples(file.array(f"{part}/windows")) for part in _PARTS},
        )

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Windows, int32, pretrained weights, and what there is to know about model and tokenizer."""
        arrays = {f"{part}/windows": getattr(self, part).inputs.to(torch.int32).numpy() for part in _PARTS}
        for folder, tensors in {"initial": self.initial, "buffers": self.buffers}.items():
            arrays |= {f"{folder}/{name}": array for name, array in tensors.items()}
        return arrays, {
            "configuration": self.configuration,
            "tokenizer": self.tokenizer,
            "prunable": asdict(self.prunable),
        }

    def build(self, seed: int) -> nn.Module:
        """The architecture's own initialisation; persistent buffers are the checkpoint's."""
        from transformers import AutoConfig, AutoModelForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stable_seed(seed, "initial weights") % 2**63)
            config = AutoConfig.for_model(**self.configuration)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        for name, buffer in model.named_buffers():
            if name in self.buffers:
                buffer.copy_(torch.tensor(self.buffers[name]))
        return model.train()

    def pretrained(self) -> dict[str, torch.Tensor] | None:
        """The checkpoint's parameters, copied."""
        return {name: torch.tensor(array) for name, array in self.initial.items()} or None

    def logits(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Of each token but the first of a window, [windows, tokens - 1, vocabulary]."""
        return model(input_ids=inputs, use_cache=False).logits[:, :-1]

    def kinds(self, model: nn.Module) -> dict[str, Kind]:
        """The selected weights: hidden, but for the weights of the output head, tied or not."""
        head = self.output(model).weight
        names = self.prunable.names(manifest_of(model, "built"))
        return {name: "output" if model.get_parameter(name) is head else "hidden" for name in names}

    def output(self, model: Any) -> nn.Module:
        """The head."""
        return model.get_output_embeddings()

    def _check(self, key: str) -> None:
        """Run the model once, so that what does not fit shows before anything is written."""
        largest = max(int(getattr(self, part).inputs.max()) for part in _PARTS)
        try:
            model: Any = self.start(0)
            if largest < (entries := model.get_input_embeddings().weight.shape[0]):
                with torch.no_grad():
                    self.logits(model, self.train.inputs[:1])
        except Exception as error:  # architectures raise anything about sizes that do not fit
            raise UserError(f"{key}: the model does not run on this text ({_first_line(error)})") from None
        if largest >= entries:
            raise UserError(f"{key}: the tokenizer gives token {largest}; the model has embeddings for {entries} only")
        self.kinds(model)


def _described(architecture: Mapping[str, Any], key: str) -> "PretrainedConfig":
    """The configuration that a mapping describes; transformers itself would take any key."""
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = architecture.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise UserError(f"{key}: architecture.model_type is {kind!r}; allowed are those of transformers, such as llama")
    if "vocab_size" in architecture:
        raise UserError(f"{key}: architecture.vocab_size follows from the tokenizer; set vocabulary instead")
    try:
        known = AutoConfig.for_model(kind).to_dict().keys() | CONFIG_MAPPING[kind].attribute_map.keys()
        config = AutoConfig.for_model(**{**_NO_SPECIAL_TOKENS, **architecture})
    except Exception as error:
        raise UserError(f"{key}: architecture is no {kind} configuration ({_first_line(error)})") from None
    if unknown := sorted(architecture.keys() - known):
        allowed = ", ".join(sorted(known - {"vocab_size", *_ABOUT_THE_FILE}))
        raise UserError(f"{key}: architecture.{unknown[0]} is no key of a {kind} configuration; allowed are {allowed}")
    return config


def _read_config(folder: Path, key: str) -> "PretrainedConfig":
    from transformers import AutoConfig

    try:
        checked(folder, CONFIG)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged configuration raises anything
        raise UserError(f"{key}: '{folder}' is no canonical checkpoint folder ({_first_line(error)})") from None


def _read_weights(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Parameters, those of floating point in float32, and persistent buffers of a canonical checkpoint, by name."""
    entries = Manifest.read(folder / MANIFEST).tensors
    fetch = fetch_from(open_weights(folder), None, torch.device("cpu"), torch.float32)
    arrays = {name: fetch(name).numpy() for name in sorted(entries, key=str.encode)}
    return (
        {name: array for name, array in arrays.items() if not entries[name].buffer},
        {name: array for name, array in arrays.items() if entries[name].buffer},
    )


def _plain(config: "PretrainedConfig") -> dict[str, Any]:
    """All of a configuration, defaults too, so that it means the same under another version of transformers."""
    content = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in content.items() if name not in _ABOUT_THE_FILE} | {"dtype": "float32"}


def _mapped(file: TensorFile, folder: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(folder): file.array(name) for name in file.specs if name.startswith(folder)}


def _examples(windows: np.ndarray) -> Examples:
    inputs = torch.from_numpy(windows.astype(np.int64))
    return Examples(inputs, inputs[:, 1:])


def _windows(count: int, length: int) -> Examples:
    inputs = torch.zeros((1, length), dtype=torch.int64).expand(count, length)
    return Examples(inputs, inputs[:, 1:])


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


TASK = TextTask
