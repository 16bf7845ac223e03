"""Agreement of a model's predictions with its dense model's, from the dense model's top-k tokens.

A whole distribution is as wide as the vocabulary. So only the top-k tokens of each prediction and the total probability
of all others are kept: a few hundred bytes per token, which give the exact top-1 agreement and a lower bound of the
Kullback-Leibler divergence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ltpipe.checkpoints.tensorfile import artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.runtime.errors import UserError

FORMAT = "3"
KIND = "set of top-k tokens"


@dataclass(frozen=True)
class TopTokens:
    """The top-k tokens of each prediction.

    Attributes:
        indices: int32 [tokens, k], the most likely first; ties by lower index.
        log_probabilities: float32 [tokens, k + 1], nats: of these tokens, and of all others together.
    """

    indices: np.ndarray
    log_probabilities: np.ndarray

    def write(self, path: Path, hashes: Mapping[str, str]) -> None:
        """Write as safetensors, with the hashes of the inputs (checkpoint, sequences)."""
        tensors = {"indices": self.indices, "log_probabilities": self.log_probabilities}
        contents = [TensorData.of(name, array) for name, array in tensors.items()]
        write_tensors(path, contents, {"format": FORMAT, "kind": KIND, **hashes})

    @classmethod
    def read(cls, path: Path, hashes: Mapping[str, str], tokens: int, vocabulary: int) -> "TopTokens":
        """Open a file that `write` wrote, as views of the mapped file.

        Args:
            path: the file.
            hashes: expected hashes of the inputs.
            tokens: expected number of predictions.
            vocabulary: number of tokens in the vocabulary.

        Raises:
            UserError: there is no such file, or it belongs to other inputs.
            DamagedFileError: it is not such a file.
        """
        with artefact(path, KIND, FORMAT) as file:
            for what, fingerprint in hashes.items():
                if file.metadata[what] != fingerprint:
                    raise UserError(
                        f"{path}: predictions do not match the {what}; evaluate the dense model on the same {what}"
                    )
            top = cls(file.array("indices"), file.array("log_probabilities"))
            rows, k = top.indices.shape
            if (rows, top.log_probabilities.shape) != (tokens, (tokens, k + 1)) or k == 0:
                raise ValueError("not as many predictions as there are tokens")
            if top.indices.dtype != np.int32 or top.log_probabilities.dtype != np.float32:
                raise ValueError("not tables of int32 and float32")
            if top.indices.min() < 0 or top.indices.max() >= vocabulary or not (top.log_probabilities < 1e-3).all():
                raise ValueError("tokens or log-probabilities that the model cannot give")
        return top


def top_bytes(tokens: int, k: int) -> int:
    """Return the bytes that the top-k tokens of this number of predictions take, in memory and on disk."""
    return tokens * (8 * k + 4) if k else 0


class Recorder:
    """Records the top-k tokens of each prediction: an observer of the dense model's evaluation.

    Args:
        tokens: number of predictions.
        k: number of tokens to keep for each.
    """

    def __init__(self, tokens: int, k: int) -> None:
        self._indices = torch.empty((tokens, k), dtype=torch.int32)
        self._log_probabilities = torch.empty((tokens, k + 1), dtype=torch.float32)

    @property
    def k(self) -> int:
        """Number of tokens kept for each prediction."""
        return self._indices.shape[1]

    @property
    def top(self) -> TopTokens:
        """The recorded tokens."""
        return TopTokens(self._indices.numpy(), self._log_probabilities.numpy())

    def tokens(self, logits: torch.Tensor, predicted: torch.Tensor, first: int) -> torch.Tensor:
        """Return the top-k tokens of each row in the order of `TopTokens`.

        `torch.topk` decides which of several equally likely tokens get the last of the k places.
        """
        top = logits.topk(self.k)
        tokens, by_token = top.indices.sort(-1)
        by_likelihood = top.values.gather(-1, by_token).sort(dim=-1, descending=True, stable=True).indices
        tokens = tokens.gather(-1, by_likelihood)
        tokens[:, :1] = predicted  # already so, unless more than k tokens tie for first place
        self._indices[first : first + len(tokens)] = tokens.to("cpu", torch.int32)
        return tokens

    def see(self, first: int, predicted: torch.Tensor, log_probabilities: torch.Tensor) -> None:
        """Record the log-probabilities."""
        self._log_probabilities[first : first + len(predicted)] = log_probabilities.cpu()


class Comparison:
    """Compares each prediction with the dense model's: an observer of an evaluation on the same tokens.

    Args:
        reference: the dense model's predictions.

    Attributes:
        agrees: bool [tokens], whether both predict the same token.
        kl: float64 [tokens], nats, see `bucket_kl`.
    """

    def __init__(self, reference: TopTokens) -> None:
        self._reference = reference
        self.agrees = torch.empty(len(reference.indices), dtype=torch.bool)
        self.kl = torch.empty(len(reference.indices), dtype=torch.float64)

    @property
    def k(self) -> int:
        """Number of tokens compared for each prediction."""
        return self._reference.indices.shape[1]

    def agreement(self) -> float:
        """Return the fraction of positions at which both predict the same token."""
        return int(self.agrees.sum()) / self.agrees.numel()

    def mean_kl(self) -> float:
        """Return the mean of `kl`, nats per token."""
        return float(self.kl.mean())

    def tokens(self, logits: torch.Tensor, predicted: torch.Tensor, first: int) -> torch.Tensor:
        """Return the dense model's top-k tokens."""
        indices = self._reference.indices[first : first + len(predicted)]
        return torch.from_numpy(indices.astype(np.int64)).to(logits.device)

    def see(self, first: int, predicted: torch.Tensor, log_probabilities: torch.Tensor) -> None:
        """Compare with the dense model's predictions."""
        rows = slice(first, first + len(predicted))
        dense = torch.from_numpy(self._reference.log_probabilities[rows].astype(np.float64))
        self.agrees[rows] = predicted[:, 0].cpu() == torch.from_numpy(self._reference.indices[rows, 0].copy())
        self.kl[rows] = bucket_kl(dense, log_probabilities.cpu())


def bucket_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence KL(p || q) of distributions over buckets of tokens.

    With a bucket for each of k tokens and one for all others, it is a lower bound of the divergence over the whole
    vocabulary (data-processing inequality: Cover & Thomas, Elements of Information Theory, 2006, section 2.8), and
    equal to it if there are no others.

    The terms are q - p - p log(q / p). Since p and q sum to one, the sum equals that of p log(p / q). But no term is
    negative, and float32 log-probabilities that differ only by rounding contribute only the square of the rounding.

    Args:
        log_p: [rows, buckets], nats.
        log_q: as `log_p`, on the same device.

    Returns:
        float64 [rows], nats, not negative.
    """
    log_p, log_q = log_p.double(), log_q.double()
    p, q = log_p.exp(), log_q.exp()
    return (q - p - p * (log_q - log_p)).sum(-1).clamp_(min=0)
