"""Wanda against a few float64 lines with hooks on the plain model: experts one by one, blocks that are used again."""

import logging
from dataclasses import dataclass

import pytest
import torch
from architectures import save_small, small_model
from torch import nn
from torch.nn import functional

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.contents import manifest_of, stored_tensors
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.plan import BatchSizes
from ltpipe.pruning.scorefile import ScoreFile
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.sources import Source
from ltpipe.scoring.criteria.wanda import Wanda
from ltpipe.scoring.plan import ScorePlanner
from ltpipe.scoring.score import score_checkpoint
from ltpipe.scoring.streamed import ChangingFetch, StreamedSubject
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import skeleton_of

IDS = torch.randint(3, 500, (5, 12), generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


def ours(model: nn.Module, tmp_path, *, streamed: bool = True) -> dict[str, torch.Tensor]:
    tensors, manifest = stored_tensors(model), manifest_of(model, "made")
    fetch = ChangingFetch(lambda name: tensors[name].clone())
    walked = CausalModel(skeleton_of(model.config, torch.float32), manifest, fetch, CPU, streamed)
    names = Selection().names(manifest)
    subject = StreamedSubject(walked, fetch, names, IDS, BatchSizes(5, 2, 10), tensors.__getitem__, tmp_path, 1)
    delivered = {}
    Wanda.score(subject, lambda name, scores: delivered.update({name: scores.clone()}))
    assert sorted(delivered) == sorted(names)
    return delivered


@dataclass
class Experts:
    """A plain reading of a module of experts.

    Attributes:
        fused: names of the weights that make hidden states wider, and of the one that makes them narrow again.
        views: from a weight to [experts, outputs, inputs].
        act: what comes between, of what the wider ones give.
    """

    wider: tuple[str, ...]
    narrower: str
    views: dict
    act: object


def by_hand(module: nn.Module, kind: Experts, states: torch.Tensor, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
    """|W| times the norms over the tokens of each expert, in float64."""
    states = states.reshape(-1, states.shape[-1]).double()
    weights = {name: kind.views[name](module.get_parameter(name).detach().double()) for name in kind.views}
    scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for expert in range(len(weights[kind.narrower])):
        mine = states[(chosen == expert).any(-1)]
        inner = kind.act(*(functional.linear(mine, weights[name][expert]) for name in kind.wider))
        for name in kind.wider:
            scores[name][expert] = weights[name][expert].abs() * mine.norm(dim=0)
        scores[kind.narrower][expert] = weights[kind.narrower][expert].abs() * inner.norm(dim=0)
    return scores


def gated(both: torch.Tensor) -> torch.Tensor:
    gate, up = both.chunk(2, -1)
    return functional.silu(gate) * up


PLAIN, TRANSPOSED = (lambda weight: weight), (lambda weight: weight.mT)
FUSED = Experts(("gate_up_proj",), "down_proj", {"gate_up_proj": PLAIN, "down_proj": PLAIN}, gated)
KINDS = {
    "qwen3_moe": ("mlp.experts", FUSED),
    "aria_text": (
        "mlp.experts",
        Experts(("gate_up_proj",), "down_proj", {"gate_up_proj": TRANSPOSED, "down_proj": TRANSPOSED}, gated),
    ),
    "dbrx": (
        "ffn.experts",
        Experts(
            ("mlp.w1", "mlp.v1"),
            "mlp.w2",
            {
                "mlp.w1": lambda weight: weight.view(4, 32, 64),
                "mlp.v1": lambda weight: weight.view(4, 32, 64),
                "mlp.w2": lambda weight: weight.view(4, 32, 64).mT,
            },
            lambda gate, up: functional.silu(gate) * up,
        ),
    ),
}


@pytest.mark.parametrize("architecture", KINDS)
def test_experts_are_scored_over_the_tokens_that_are_routed_to_them(architecture, tmp_path):
    model = small_model(architecture)
    path, kind = KINDS[architecture]
    seen = {}

    def remember(module, args, kwargs, name):
        seen[name] = by_hand(module, kind, *[*args, *kwargs.values()][:2])

    for name, module in model.named_modules():
        if name.endswith(path):
            module.register_forward_pre_hook(lambda m, a, k, name=name: remember(m, a, k, name), with_kwargs=True)
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    scores = ours(small_model(architecture), tmp_path)
    assert len(seen) == 2
    for owner, expected in seen.items():
        for leaf, wanted in expected.items():
            got = kind.views[leaf](scores[f"{owner}.{leaf}"].double())
            torch.testing.assert_close(got, wanted, rtol=2e-4, atol=1e-6, msg=f"{owner}.{leaf}")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_block_that_is_used_again_is_scored_over_all_of_its_uses(streamed, tmp_path):
    model = small_model("zamba2")
    squares: dict[int, torch.Tensor] = {}

    def remember(module, args):
        key = id(module.weight)
        squares[key] = squares.get(key, 0) + args[0].double().reshape(-1, args[0].shape[-1]).square().sum(0)

    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(remember)
    with torch.no_grad():
        model(input_ids=IDS, use_cache=False)
    aliases = [name for name in model.state_dict() if name.endswith("shared_transformer.self_attn.q_proj.weight")]
    assert len(aliases) == 3, "one weight under three names"
    scores = ours(small_model("zamba2"), tmp_path, streamed=streamed)
    for name, got in scores.items():
        weight = model.get_parameter(name)
        wanted = weight.detach().double().abs() * squares[id(weight)].sqrt()
        torch.testing.assert_close(got.double(), wanted, rtol=2e-4, atol=1e-6, msg=name)


def test_experts_that_see_no_token_are_said(tmp_path, caplog):
    model = small_model("qwen3_moe", num_experts=64)
    with caplog.at_level(logging.WARNING):
        scores = ours(model, tmp_path)
    silent = sum(int((scores[name].flatten(1).sum(1) == 0).sum()) for name in scores if "experts" in name)
    assert silent > 0
    assert f"no calibration token is routed to {silent} expert matrices; their scores are 0" in caplog.text


def test_all_lists_of_blocks_are_scored_or_refused_in_one_line(tmp_path):
    source, folder = save_small("hrm_text", tmp_path / "source"), tmp_path / "folder"
    load_checkpoint(Source(str(source)), None, "auto", folder)
    TokenSequences(IDS.int().numpy() % 90, 5, 1, sha256_of(folder / TOKENIZER)).write(tmp_path / "sequences")

    def score(criterion):
        settings = ComputeSettings(device="cpu")
        score_checkpoint(
            Checkpoint.open(folder), criterion, tmp_path / criterion, Selection(), tmp_path / "sequences", settings
        )

    score("wanda")
    scores = ScoreFile(tmp_path / "wanda")
    assert {name.split(".")[1] for name in scores.names} == {"H_module", "L_module"}
    assert all(scores.array(name).any() for name in scores.names)
    with pytest.raises(
        UserError, match=r"blocks of model\.L_module\.layers only, .* exclude 'model\.H_module\.layers\.\*'"
    ):
        score("taylor")
    assert not (tmp_path / "taylor").exists()


@pytest.mark.parametrize("architecture", ["qwen3_moe", "zamba2"])
def test_the_plan_runs_the_same_walk(architecture):
    model = small_model(architecture)
    manifest = manifest_of(model, "made")
    skeleton = skeleton_of(model.config, torch.float32)
    planner = ScorePlanner(skeleton, manifest, Selection().names(manifest), Wanda, torch.float32, False)
    assert planner.peak(BatchSizes(5, 2, 10), 12).total > 0
