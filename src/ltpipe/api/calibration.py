"""The data a live model is scored on: a data loader's batches."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from ltpipe.api.batches import Batch
from ltpipe.api.losses import Answer, summed_loss
from ltpipe.runtime.errors import UserError
from ltpipe.scoring.subject import Objective, embedding_of_ones


def sequences(batches: Sequence[Batch]) -> torch.Tensor | None:
    """Return all texts as one int64 [sequences, tokens] if they are unpadded, equally long and their own labels."""
    found = [ids for batch in batches if (ids := batch.sequences()) is not None]
    if len(found) != len(batches) or len({ids.shape[1] for ids in found}) != 1:
        return None
    return torch.cat(found)


@dataclass(frozen=True)
class ModuleData:
    """Batches for any module; see `ltpipe.training.scores.LiveData`.

    Attributes:
        batches: batches on the CPU.
        batch: examples per batch; None leaves batches as they are.
        device: the model's device.
    """

    batches: Sequence[Batch]
    batch: int | None
    device: torch.device

    @property
    def tokens(self) -> float:
        """Mean number of labels of an example; 1 if there are no labels."""
        labelled = [(batch.examples, batch.labels) for batch in self.batches if batch.labels is not None]
        if not labelled:
            return 1
        counted = sum(int(torch.ne(labels, -100).sum()) for _, labels in labelled)
        return counted / sum(examples for examples, _ in labelled)

    def losses(self, model: nn.Module, objective: Objective | None = None) -> Iterator[torch.Tensor]:
        """See `LiveData`."""
        for batch in self._parts():
            with torch.enable_grad():
                if objective is None:
                    loss = summed_loss(model, batch, self.device)
                else:
                    loss = _objective(model, batch, self.device, objective)
            yield loss

    def run(self, model: nn.Module) -> None:
        """See `LiveData`.

        Raises:
            UserError: texts are padded, so hooks would count padding as inputs.
        """
        for batch in self._parts():
            padding = batch.kwargs.get("attention_mask")
            if padding is not None and not bool((padding == 1).all()):
                raise UserError(
                    "dataloader: its texts are padded, and this criterion would measure the padding too; use texts of "
                    "equal length or a criterion based on the loss"
                )
            placed = batch.to(self.device)
            with torch.no_grad():
                model(*placed.args, **placed.kwargs)

    @contextmanager
    def of_ones(self, model: nn.Module) -> Iterator["ModuleData"]:
        """See `LiveData`."""
        one = replace(self.batches[0].part(0, 1), labels=None)
        text = one.as_text()
        with ExitStack() as stack:
            if text is not None:
                stack.enter_context(embedding_of_ones(model))
                one = Batch((), {"input_ids": text.kwargs["input_ids"][:, :2]}, None)
            elif one.args:
                one = Batch((torch.ones_like(one.args[0]),), {}, None)
            else:
                one = Batch(
                    (), {k: torch.ones_like(v) if torch.is_tensor(v) else v for k, v in one.kwargs.items()}, None
                )
            yield replace(self, batches=[one])

    def _parts(self) -> Iterator[Batch]:
        for batch in self.batches:
            size = self.batch or batch.examples
            for start in range(0, batch.examples, size):
                yield batch.part(start, start + size)


def _objective(model: nn.Module, batch: Batch, device: torch.device, objective: Objective) -> torch.Tensor:
    """Return the sum of an objective of the logits."""
    answer = Answer.of(model, batch, device)
    if answer.candidates:
        rows, targets = answer.candidates[-1]  # for a text, labels shifted by one
        return objective(rows.float(), targets).sum()
    if answer.logits is None or answer.logits.dim() < 2:
        raise UserError(
            f"{type(model).__name__} returns no logits, which this criterion needs; return an output with .logits"
        )
    logits = answer.logits.movedim(1, -1) if answer.raw else answer.logits
    rows = logits.reshape(-1, logits.shape[-1]).float()
    return objective(rows, torch.zeros(len(rows), dtype=torch.long, device=rows.device)).sum()
