"""The guard: checks on a small copy with random weights that a model's walk equals its own forward pass.

There is no list of architectures that may be streamed. When a model is loaded, a small copy (`ltpipe.streaming.small`)
is run as transformers runs it and then walked: all sequences at once, in parts of two sizes, forward and backward. Any
kind of walk that differs is not used for the model, and the reason goes into its manifest. A model that depends on more
than a sequence's own earlier tokens has no next-token loss, and is rejected.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from textwrap import shorten
from typing import TYPE_CHECKING

import torch
from torch import nn

from ltpipe.checkpoints.contents import manifest_of, stored_tensors
from ltpipe.checkpoints.manifest import Manifest, Walks
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.backward import stream_gradients, walk_gradients
from ltpipe.streaming.blocks import probe_blocks
from ltpipe.streaming.model import CausalModel, positions
from ltpipe.streaming.skeleton import skeleton_of
from ltpipe.streaming.small import small_configs

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SEQUENCES, TOKENS = 5, 24
_MICRO_BATCHES = (SEQUENCES, 2, 1)
_CHUNK = 37
_TOLERANCE, _GRADIENT_TOLERANCE = 1e-4, 1e-3
"""Tolerances of the relative norm of a difference: float32 rounding is about 1e-7, real faults are above 1e-3."""
_CPU = torch.device("cpu")


def judge(config: "PretrainedConfig") -> Walks:
    """Return how a model with this configuration may be walked.

    Takes seconds and at most 8 million parameters, whatever the size of the model.

    Raises:
        UserError: the model has no next-token loss: it cannot be run on tokens alone, looks ahead, is random, or
            depends on which sequences are evaluated together.
    """
    failure: Exception | None = None
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        for small in small_configs(config):
            try:
                copy = _Copy.of(small)
            except Exception as error:  # models raise anything, also if they were shrunk too far
                if small is config:
                    name = (config.architectures or [type(config).__name__])[0]
                    raise UserError(f"{name} cannot be run on tokens alone ({_brief(error)})") from None
                failure = failure or error
                continue
            return copy.verdict()
    done = f"run ({_brief(failure)})" if failure else "built"
    unknown = f"no small copy of it could be {done}, so its walk was not compared with its own forward pass"
    return Walks(unknown, unknown, "", unknown, True)


@dataclass(frozen=True)
class _Copy:
    """A small copy, and what transformers computes with it.

    Attributes:
        config: the copy's configuration.
        live: the copy.
        tokens: int64 [sequences, tokens].
        logits: float32 [sequences, tokens, vocabulary].
        gradients: gradients of the summed next-token loss by name; None for weights without one.
        no_gradients: why there are no gradients at all; empty if there are.
        rewrites: whether the forward pass wrote to the copy's weights.
    """

    config: "PretrainedConfig"
    live: nn.Module
    tokens: torch.Tensor
    logits: torch.Tensor
    gradients: dict[str, torch.Tensor | None]
    no_gradients: str
    rewrites: bool

    @classmethod
    def of(cls, config: "PretrainedConfig") -> "_Copy":
        """Build and run a copy; raises whatever the model raises, and ValueError if its logits are unusable."""
        live = random_model(config)
        vocabulary = config.get_text_config().vocab_size
        length = min(TOKENS, positions(live) or TOKENS)
        tokens = torch.randint(vocabulary, (SEQUENCES, length), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            written = _versions(live)
            logits = live(input_ids=tokens).logits.float().clone()
            rewrites = _versions(live) != written
        if logits.shape[:2] != tokens.shape or not bool(logits.isfinite().all()):
            raise ValueError("its logits are not finite, or not one row per token")
        no_gradients = _problem(lambda: _differentiate(live, tokens))
        gradients = {name: parameter.grad for name, parameter in live.named_parameters()}
        live.requires_grad_(False)
        return cls(config, live, tokens, logits, gradients, no_gradients, rewrites)

    def verdict(self) -> Walks:
        """Compare the walks with the model's own passes.

        Raises:
            UserError: the copy has no next-token loss.
        """
        self._check_losses()
        manifest = replace(manifest_of(self.live, "a small copy"), walks=Walks(rewrites=self.rewrites))
        forward = _problem(lambda: self._streamed(manifest))
        head = _problem(lambda: self._forward(self._model(manifest, streamed=False))) if forward else ""
        backward = self.no_gradients or _problem(lambda: self._streamed_backward(manifest))
        gradients = self.no_gradients
        if backward and not gradients:
            whole = replace(manifest, walks=replace(manifest.walks, head=head))
            gradients = _problem(lambda: self._backward(self._model(whole, streamed=False)))
        return Walks(forward, backward, gradients, head, self.rewrites)

    def _check_losses(self) -> None:
        """Reject a model without next-token losses, or whose losses depend on the other sequences in the batch."""
        name = type(self.live).__name__
        with torch.no_grad():
            again = self.live(input_ids=self.tokens).logits.float()
            parts = torch.cat([self.live(input_ids=part).logits.float() for part in self.tokens.split(2)])
            other = self.tokens.clone()
            other[:, -1] = (other[:, -1] + 1) % self.config.get_text_config().vocab_size
            ahead = self.live(input_ids=other).logits.float()
        if _difference(again, self.logits) > _TOLERANCE:
            raise UserError(f"{name} gives different logits on every run; there is no loss to compare tickets by")
        if _difference(ahead[:, :-1], self.logits[:, :-1]) > _TOLERANCE:
            raise UserError(
                f"{name} sees the tokens it has to predict, at least in this configuration (an encoder?), so it has no "
                "next-token loss; load a causal language model, or set is_decoder if it is one"
            )
        if _difference(parts, self.logits) > _TOLERANCE:
            raise UserError(
                f"{name} gives a sequence different logits in the company of other sequences; a sequence has no loss "
                "of its own"
            )

    def _model(self, manifest: Manifest, streamed: bool) -> CausalModel:
        values = stored_tensors(random_model(self.config) if self.rewrites else self.live)
        return CausalModel(skeleton_of(self.config, torch.float32), manifest, values.__getitem__, _CPU, streamed)

    def _streamed(self, manifest: Manifest) -> None:
        model = self._model(manifest, streamed=True)
        division = model.probe(self.tokens.shape[1], probe_blocks)
        for micro_batch in _MICRO_BATCHES:
            self._compare_logits(model, model.stream(self.tokens, micro_batch, division), micro_batch)

    def _forward(self, model: CausalModel) -> None:
        self._compare_logits(model, model.hidden_states(self.tokens, 2), 2)

    def _compare_logits(self, model: CausalModel, hidden_states: torch.Tensor, micro_batch: int) -> None:
        with model.head():
            rows = hidden_states.flatten(0, 1).split(_CHUNK)
            logits = torch.cat([model.logits(part).float() for part in rows]).view_as(self.logits)
        _check_equal(logits, self.logits, _TOLERANCE, "logits", micro_batch)

    def _streamed_backward(self, manifest: Manifest) -> None:
        model = self._model(manifest, streamed=True)
        division = model.probe(self.tokens.shape[1], probe_blocks)
        for micro_batch in _MICRO_BATCHES:
            sums = _Sums()
            with torch.enable_grad(), torch.autograd.set_multithreading_enabled(False):
                stream_gradients(model, division, self.tokens, micro_batch, _CHUNK, self._wanted(manifest), sums)
            self._compare_gradients(sums, micro_batch)

    def _backward(self, model: CausalModel) -> None:
        sums = _Sums()
        walk_gradients(model, self.tokens, 2, _CHUNK, self._wanted(model.manifest), sums)
        self._compare_gradients(sums, 2)

    def _wanted(self, manifest: Manifest) -> frozenset[str]:
        entries = manifest.tensors.items()
        return frozenset(name for name, entry in entries if manifest.in_blocks(name) and not entry.buffer)

    def _compare_gradients(self, sums: "_Sums", micro_batch: int) -> None:
        names = sorted(sums.of)
        found = torch.cat([sums.of[name].flatten() for name in names])
        expected = (self.gradients[name] for name in names)
        wanted = [torch.zeros_like(sums.of[n]) if e is None else e for n, e in zip(names, expected, strict=True)]
        _check_equal(
            found, torch.cat([part.flatten() for part in wanted]), _GRADIENT_TOLERANCE, "gradients", micro_batch
        )


def random_model(config: "PretrainedConfig") -> nn.Module:
    """Return a float32 model with reproducible random weights, large enough for every part to matter."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 / sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 0.1
            parameter.add_(torch.randn_like(parameter), alpha=scale)
    model.tie_weights()
    return model


def _differentiate(model: nn.Module, tokens: torch.Tensor) -> None:
    """Compute the gradients of the summed next-token loss in a model's parameters."""
    logits = model(input_ids=tokens).logits[:, :-1].float()
    nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").backward()


class _Sums:
    """Adds gradients up."""

    def __init__(self) -> None:
        self.of: dict[str, torch.Tensor] = {}

    def add(self, name: str, _: torch.Tensor, gradient: torch.Tensor) -> None:
        self.of[name] = self.of[name] + gradient if name in self.of else gradient.clone()

    def finish(self, block: str) -> None:
        pass


class _UnequalError(Exception):
    """A walk gave a different result from the model's own pass."""


def _check_equal(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, what: str, micro_batch: int) -> None:
    difference = _difference(found, wanted)
    if not difference <= tolerance:  # NaN does not count as agreement
        where = "at once" if micro_batch == SEQUENCES else f"{micro_batch} at a time"
        raise _UnequalError(f"block by block, sequences {where}, its {what} differ by {difference:.0e} of their norm")


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


def _problem(compare: Callable[[], None]) -> str:
    """Return what is wrong with a walk, in one line; empty if nothing is."""
    try:
        compare()
    except Exception as error:  # a walk that fails counts as different, whatever it raises
        return _brief(error)
    return ""


def _brief(error: Exception) -> str:
    return shorten(str(error), 160, placeholder=" …") or type(error).__name__


def _versions(model: nn.Module) -> list[int]:
    """Return how often each parameter was written to."""
    return [parameter._version for parameter in model.parameters()]
