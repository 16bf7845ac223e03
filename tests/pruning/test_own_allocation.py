"""The allocation of one's own in docs/scopes.md works as it is printed: one file, one word."""

import re
from pathlib import Path

import pytest

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning import allocations
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask
from ltpipe.pruning.scopes import scope_named
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError

DOCS = Path(__file__).parents[2] / "docs/scopes.md"


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Function that adds an allocation of some code."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setattr(allocations, "__path__", [*allocations.__path__, str(folder)])
    return lambda name, code: (folder / f"{name}.py").write_text(code, encoding="utf-8")


@pytest.fixture
def mask(canonical_folder, tmp_path):
    """Function from a scope to the mask of half the weights of a tiny Llama."""
    folder, histogram = canonical_folder("llama"), tmp_path / "histogram"
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(histogram)

    def made(scope):
        make_mask(Checkpoint.open(folder), histogram, scope, "0.5", tmp_path / "mask")
        return load_mask(tmp_path / "mask")

    return made


@pytest.mark.parametrize("scope", ["depth", "depth-row"])
def test_the_printed_allocation_prunes_later_blocks_more(add, mask, scope):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    add("depth", code)
    found = mask(scope)
    total = sum(kept.numel() for kept in found.values())
    assert sum(int(kept.sum()) for kept in found.values()) == total - Sparsity.of("0.5").count(total)
    (first,), (middle,), (last,) = (
        {round(float(kept.float().mean()), 2) for name, kept in found.items() if f"layers.{block}." in name}
        for block in range(3)
    )
    assert (first, middle, last) == (0.67, 0.5, 0.33)


def test_an_allocation_that_does_not_add_up_is_refused(add, mask):
    add(
        "greedy",
        "from ltpipe.pruning.allocation import Allocation\nALLOCATION = Allocation(lambda request: [1, 2])\n",
    )
    with pytest.raises(
        UserError, match=r"allocation .greedy. prunes 3 weights in 2 tensors; expected .* in 21, no more"
    ):
        mask("greedy")


def test_only_files_of_the_folder_are_scopes(add):
    add("mine", "")
    assert scope_named("mine-row").allocation == "mine"
    with pytest.raises(UserError, match=r"scope .yours. is unknown; use .*mine, .*mine-row"):
        scope_named("yours")


def test_an_allocation_that_takes_no_request_is_named_when_it_is_imported(add):
    add(
        "thrifty",
        "from ltpipe.pruning.allocation import Allocation\ndef counts(): ...\nALLOCATION = Allocation(counts)\n",
    )
    with pytest.raises(UserError, match=r"^allocation 'thrifty': counts\(\) does not take the arguments \(request\)"):
        scope_named("thrifty").nested  # noqa: B018
