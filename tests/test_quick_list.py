"""The list of files that make check runs: pytest refuses the whole list for one file that is gone."""

from checkouts import ROOT


def test_every_file_of_the_quick_list_is_there():
    listed = (ROOT / "tests" / "quick.txt").read_text().split()
    assert listed
    assert [path for path in listed if not (ROOT / path).exists()] == []
    assert len(set(listed)) == len(listed)
