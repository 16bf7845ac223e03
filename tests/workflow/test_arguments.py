"""Lists of files on a command line: what Bash makes of them is what was meant."""

import subprocess

import pytest

from ltpipe.workflow.arguments import braced


def expanded(words: str) -> list[str]:
    printed = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, text=True, check=True
    ).stdout
    return printed.split("\0")[:-1]


@pytest.mark.parametrize(
    "paths",
    [
        ["a/b/1", "a/b/2", "a/c", "d/b/1"],
        ["alone.json"],
        ["a/0.1.json"],
        ["b/2", "a/1", "b/1"],  # the order is kept, a folder may come twice
        ["a b/1", "a b/2", "it's/$(touch x)/;/1", "{p,q}/1", "{p,q}/2", "x,y/1", "x,y/2", "1..3/~/*", '-/\\/"q"'],
        ["/absolute/1", "/absolute/2"],
    ],
)
def test_bash_gives_back_the_paths(paths: list[str]):
    assert expanded(braced(paths)) == paths


def test_no_files_are_no_words():
    assert braced([]) == ""


def test_more_files_than_one_command_takes_by_their_whole_names():
    paths = [
        f"results/masks/model/{criterion}/layer/seed-{seed}/0.{sparsity:03}.safetensors"
        for criterion in ("magnitude", "random")
        for seed in range(10)
        for sparsity in range(1, 200)
    ]
    assert len(" ".join(paths)) > 128 * 1024 > len(braced(paths))
    assert expanded(braced(paths)) == paths
