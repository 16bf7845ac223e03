"""Several finished studies on one page: through the reports that they left."""

import re
import shutil
from pathlib import Path

import pytest
from reports import comparisons_frame, curves_frame, tickets_frame

from ltpipe import cli
from ltpipe.reporting import side_by_side
from ltpipe.reporting.folder import ReportFolder, write_folder
from ltpipe.reporting.report import table_files
from ltpipe.reporting.side_by_side import names, write_side_by_side
from ltpipe.reporting.tables import comparisons, curves, tickets
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.frames import frame


def finished(folder: Path, **changes) -> Path:
    """A folder in which a study ran."""
    rows = tickets_frame().assign(**changes)
    found = (
        (tickets.TABLE, frame(rows.to_dict("records"), tickets.COLUMNS)),
        (curves.TABLE, curves_frame()),
        (comparisons.TABLE, comparisons_frame(rows)),
    )
    write_folder(folder / "results/report", {name: file for pair in found for name, file in table_files(*pair).items()})
    return folder


@pytest.fixture
def studies(tmp_path: Path) -> tuple[Path, Path]:
    later = tickets_frame()["loss"] + 0.25
    return finished(tmp_path / "last-week"), finished(tmp_path / "today", loss=later)


def test_one_table_says_whose_each_ticket_is(studies, tmp_path):
    cli.report(studies, output=tmp_path / "both")
    both = ReportFolder(tmp_path / "both")
    table = both.table(side_by_side.TABLE)
    assert table["study"].value_counts().to_dict() == {"last-week": 11, "today": 11}
    assert table.columns[0] == "study"
    assert (table["loss"][11:].to_numpy() - table["loss"][:11].to_numpy()).round(9).tolist() == [0.25] * 11
    page = (tmp_path / "both/index.html").read_text()
    text = " ".join(re.sub(r"<[^>]*>", " ", page.split('<script type="application/json"')[0]).split())
    assert "last-week: org/small on wiki" in text
    assert "today: org/small on wiki" in text
    assert "magnitude, global 30% 3.0612 3.3112" in text
    assert sorted(path.name for path in both.path.iterdir()) == [
        "SHA256SUMS", "index.html", "tickets.csv", "tickets.parquet", "tradeoff.png", "tradeoff.svg",
    ]  # fmt: skip


def test_studies_are_named_by_as_many_folders_as_tell_them_apart(tmp_path):
    assert names([tmp_path / place for place in ("a/results/report", "b/results/report")]) == ["a", "b"]
    assert names([tmp_path / "x" / place for place in ("a/results/report", "b/results/report/a")]) == ["x/a", "b/a"]
    assert names([tmp_path / place for place in ("b/results/report", "b/results/report/today")]) == ["b", "today"]
    with pytest.raises(UserError, match="appears twice"):
        names([tmp_path / "a", tmp_path / "b/../a"])


def test_what_is_no_sound_report_is_refused_by_name(studies, tmp_path):
    broken = shutil.copytree(studies[1], tmp_path / "broken")
    csv = broken / "results/report/tickets.csv"
    csv.write_text(csv.read_text().replace("0.98", "0.99"))
    other = finished(tmp_path / "other")
    old = frame([{"model": "m"}], {"model": tickets.COLUMNS["model"]})
    write_folder(other / "results/report", {"tickets.csv": old.to_csv(index=False).encode()})
    trained = tmp_path / "trained"
    write_folder(trained, {"index.html": b""})
    lost = shutil.copytree(studies[1], tmp_path / "lost")
    (lost / "results/report/curves.parquet").unlink()
    for folder, error, words in (
        (tmp_path / "absent", UserError, "absent: not a report"),
        (broken, DamagedFileError, "broken/results/report/tickets.csv: damaged: does not match"),
        (lost, DamagedFileError, "lost/results/report/curves.parquet: missing"),
        (other, DamagedFileError, "other/results/report/tickets.csv: not a table of tickets"),
        (trained, UserError, "trained: the report has no tickets"),
    ):
        with pytest.raises(error, match=words):
            write_side_by_side((studies[0], folder), tmp_path / "both")
    with pytest.raises(UserError, match="name at least two"):
        write_side_by_side(studies[:1], tmp_path / "both")
    assert not (tmp_path / "both").exists()
    with pytest.raises(UserError, match="already exists"):
        write_side_by_side(studies, studies[0])
