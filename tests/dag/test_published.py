"""The studies of published tables, run as they are but for a small model and texts on disk in place of the Hub's."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from checkouts import ROOT, checkout, plain_environment, reruns, snakemake
from tiny import save_tiny

from ltpipe.reporting.published import read_facts

STUDIES = sorted((ROOT / "config/published").glob("*.yaml"))
SMALL = {"sequence_length": 16, "num_sequences": 8}


def texts(folder: Path) -> None:
    """WikiText-2 and C4 as they lie on the Hub, with other words."""
    words = [" ".join(f"w{(factor * number) ** 2 % 93}" for number in range(60)) for factor in range(1, 21)]
    wikitext, c4 = folder / "wikitext/wikitext-2-raw-v1/test-00000-of-00001.parquet", folder / "c4/en"
    wikitext.parent.mkdir(parents=True)
    pd.DataFrame({"text": words[:5]}).to_parquet(wikitext)
    c4.mkdir(parents=True)
    with gzip.open(c4 / "c4-train.00000-of-01024.json.gz", "wt") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in words[5:])


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_a_published_study_with_a_small_model(study: Path, tmp_path: Path):
    folder = checkout(tmp_path)
    config = yaml.safe_load(study.read_text())
    (model,) = config["models"]
    save_tiny("llama", folder / "models/tiny")
    texts(folder / "texts")
    config["models"][model]["source"] = "../models/tiny"
    for name, text in config["data"].items():
        text["source"] = f"../texts/{'wikitext' if name == 'wikitext2' else name}"
    config["score"] |= SMALL
    config["evaluate"]["sequence_length"] = SMALL["sequence_length"]
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-P", "-m", "ltpipe.cli", "plan", "--config", "config/config.yaml"]
    planned = subprocess.run(command, cwd=folder, env=plain_environment(), capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr
    assert "fits: needs" in planned.stdout
    facts = [fact for fact in read_facts() if fact.model == model]
    cells = {f"{fact.criterion}/{fact.scope}" for fact in facts if fact.criterion != "dense"}
    asked = {job for job in reruns(folder) if job.startswith("ticket ")}
    assert all(any(f"/{cell}/" in job for job in asked) for cell in cells)
    snakemake(folder)
    command = [sys.executable, "-P", "-m", "ltpipe.cli", "published"]
    shown = subprocess.run(command, cwd=folder, env=plain_environment(), capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    rows = [line.split("|") for line in shown.stdout.splitlines() if line.startswith(f"| {model} ")]
    assert len(rows) == len(facts), "each published number has one of ours beside it"
    length = facts[0].sequence_length
    assert all(f"sequences of 16 tokens, published {length:,}" in row[6] for row in rows)
    table = pd.read_csv(folder / "results/report/tickets.csv")
    assert table["perplexity"].notna().all()
