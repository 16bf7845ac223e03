"""The report: verdicts on hand-made tickets, the page as a parser sees it, figures, the terminal."""

import io
import math
from base64 import b64decode
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from ltpipe.reporting.columns import MEMORY, percent, perplexity, short_count
from ltpipe.reporting.figures import save_figure, tradeoff_figure
from ltpipe.reporting.page import render_page, verdicts
from ltpipe.reporting.terminal import summary_table

EVIL = '</title><script>alert("x")</script><img src="http://evil.example/x">'


def ticket(retention, **changes):
    row = {
        "model": "org/small", "data": "wiki", "criterion": "magnitude", "scope": "global", "seed": pd.NA,
        "sparsity": 0.5, "total": 1_000_000, "parameters": 1_200_000, "accuracy": 0.25, "baseline_loss": 3.0,
        "baseline_perplexity": math.exp(3.0), "baseline_accuracy": 0.4, "tokens": 16_368, "sequences": 16,
        "precision": "float32", "device": "cpu", "execution": "streamed", "peak_host_bytes": 3 * 2**30,
        "planned_bytes": 2**27, "measured_bytes": 2**27 + 2**20, "peak_host_private_bytes": 2**29,
        "peak_device_reserved_bytes": pd.NA,
        "peak_device_bytes": pd.NA, "seconds": 12.5, "performance_retention": retention,
        "agreement": pd.NA, "kl_top_k": pd.NA, **changes,
    }  # fmt: skip
    loss = row["baseline_loss"] / retention if retention else math.inf
    row.setdefault("loss_difference", loss - row["baseline_loss"])
    row.setdefault("accuracy_difference", row["accuracy"] - row["baseline_accuracy"])
    for key, half in (("performance_retention", 0.01), ("loss_difference", 0.03), ("accuracy_difference", 0.02)):
        row.setdefault(f"{key}_low", row[key] - half)
        row.setdefault(f"{key}_high", row[key] + half)
    kept = round(row["total"] * (1 - row["sparsity"]))
    return {"kept": kept, "loss": loss, "perplexity": np.exp(loss), **row}


def frame(*rows):
    integers = dict.fromkeys(("seed", *MEMORY), "Int64")
    return pd.DataFrame(list(rows)).astype(integers)


def seeds(retentions, **changes):
    return [ticket(value, criterion="random", seed=seed, **changes) for seed, value in enumerate(retentions)]


@pytest.fixture
def tickets():
    return frame(
        ticket(0.98, sparsity=0.3),
        ticket(0.92),
        ticket(0.25, sparsity=0.7),
        ticket(0.95, scope="layer", sparsity=0.3),
        ticket(0.85, scope="layer"),
        *seeds([0.5, 0.6, 0.55], sparsity=0.3),
        *seeds([0.3, 0.5, 0.4]),
    )


class Parsed(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.cells, self.open = [], [], [], None
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag
        if tag == "tr":
            self.cells.append([])

    def handle_data(self, data):
        if self.open not in ("style", "script"):
            self.words.append(data)
        if self.open == "td" and data.strip():
            self.cells[-1].append(data)

    def handle_endtag(self, tag):  # noqa: ARG002
        self.open = None

    def attributes(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def page(tickets, svg="<svg/>", provenance=None):
    return Parsed(render_page(tickets, svg, provenance or {}))


def printed(tickets, width=160, **options):
    console = Console(width=width, file=io.StringIO(), **options)
    console.print(summary_table(tickets))
    return console.file.getvalue()


# Verdicts


def test_the_winner_is_the_sparsest_ticket_that_wins_not_the_one_that_retains_most(tickets):
    (verdict,) = verdicts(tickets)
    assert (verdict.winner.criterion, verdict.winner.scope, verdict.winner.sparsity) == (
        "magnitude",
        "global",
        0.5,
    )
    assert verdict.winner.seed is None
    assert (verdict.evaluated, verdict.sparsest, verdict.closest.performance_retention) == (11, 0.7, 0.98)


def test_the_best_random_ticket_is_looked_for_at_the_winners_sparsity_alone(tickets):
    (verdict,) = verdicts(tickets)
    assert (verdict.randoms, verdict.random.seed, verdict.random.performance_retention) == (3, 1, 0.5)
    (verdict,) = verdicts(tickets[(tickets.criterion != "random") | (tickets.sparsity != 0.5)])
    assert (verdict.winner.sparsity, verdict.randoms, verdict.random) == (0.5, 0, None)


@pytest.mark.parametrize(("retention", "wins"), [(0.9, True), (math.nextafter(0.9, 0), False), (1.2, True)])
def test_a_ticket_wins_from_nine_tenths_on(retention, wins):
    (verdict,) = verdicts(frame(ticket(retention)))
    assert (verdict.winner is not None) == wins


def test_at_equal_sparsity_retention_decides_and_then_a_fixed_order_that_puts_random_last():
    ahead = frame(ticket(0.91, criterion="a"), ticket(0.93, criterion="z"), ticket(0.92, criterion="b"))
    assert verdicts(ahead)[0].winner.criterion == "z"
    equal = frame(*seeds([0.95, 0.95]), ticket(0.95, criterion="wanda", scope="row"), ticket(0.95, criterion="wanda"))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        (verdict,) = verdicts(equal.iloc[order])
        assert (verdict.winner.criterion, verdict.winner.scope) == ("wanda", "global")
        assert verdict.random.seed == 0
    assert "no better than the best of 2 random tickets" in page(equal).text


def test_without_a_winner_the_closest_ticket_is_named():
    losing = frame(ticket(0.4, sparsity=0.7), ticket(0.8), *seeds([0.3]))
    (verdict,) = verdicts(losing)
    assert (verdict.winner, verdict.random, verdict.seeds) == (None, None, 0)
    assert verdict.closest.performance_retention == 0.8
    text = page(losing).text
    assert "None of the 3 tickets is a winning ticket" in text
    assert "The closest removes 50% of the prunable weights" in text
    assert "0.8000" in text
    assert "beats" not in text


def test_a_lucky_seed_is_told_from_a_configuration_that_wins():
    lucky = frame(*seeds([0.85, 0.91, 0.93]), *seeds([0.95], scope="layer", sparsity=0.3))
    (verdict,) = verdicts(lucky)
    assert (verdict.winner.seed, verdict.seeds, verdict.seeds_winning, verdict.randoms) == (2, 3, 2, 2)
    text = page(lucky).text
    assert "2 of its 3 seeds reach a retention of 0.9" in text
    assert "itself a random mask" in text
    assert "beats" not in text


def test_masks_that_remove_nothing_and_losses_that_are_no_numbers_win_nothing():
    (verdict,) = verdicts(frame(ticket(1.0, sparsity=0.0), ticket(math.nan, sparsity=0.9), ticket(0.7, sparsity=0.2)))
    assert (verdict.winner, verdict.closest.performance_retention) == (None, 0.7)
    diverged = frame(ticket(math.nan))
    assert verdicts(diverged)[0].closest is None
    assert "None of the 1 tickets both removes weights and has a loss that is a number" in page(diverged).text


def test_each_model_and_text_has_its_own_verdict():
    several = frame(
        ticket(0.95, model="b"), ticket(0.5, model="a"), ticket(0.91, model="a", data="other", sparsity=0.1)
    )
    assert [(v.model, v.data, v.winner and v.winner.sparsity) for v in verdicts(several)] == [
        ("a", "other", 0.1), ("a", "wiki", None), ("b", "wiki", 0.5),
    ]  # fmt: skip


# Page


def test_the_verdict_gives_exact_numbers_and_the_lead_over_random(tickets):
    text = page(tickets).text
    assert "The sparsest winning ticket removes 50% of the prunable weights: magnitude , scope global ." in text
    assert (
        "retention is 0.9200 (95% interval 0.9100 to 0.9300): a loss of 3.2609 nats/token against 3.0000 of the dense "
        "model, a perplexity "
        "of 26.07 against 20.09, an accuracy of 25.00% against 40.00%. It keeps 500,000 of 1,000,000" in text
    )
    assert "best of 3 random tickets at the same sparsity ( random , scope global , seed 1 :" in text
    assert "by 0.4200 in retention and 2.7391 nats/token in loss" in text
    assert "No sparser ticket was evaluated" not in text
    assert "No sparser ticket was evaluated" in page(tickets[tickets.sparsity <= 0.5]).text
    assert "random ticket" not in page(tickets[tickets.criterion != "random"]).text


def test_the_table_holds_the_dense_model_and_every_ticket(tickets):
    rows = page(tickets).cells[1:]
    assert len(rows) == 1 + len(tickets)
    assert rows[0] == ["dense", "–", "–", "0%", "1,000,000", "3.0000", "20.09", "40.00%", "1.0000", *["–"] * 7]
    assert rows[1][:5] == ["magnitude", "global", "–", "30%", "700,000"]
    assert rows[3][:4] == ["random", "global", "0", "30%"]
    assert rows[1][-8] == "0.9800 [0.9700, 0.9900]"
    assert rows[1][-7:-3] == ["+0.0612 [+0.0312, +0.0912]", "-15.00 [-17.00, -13.00]", "12.5", "128"]
    assert rows[1][-3:] == ["129", "3,072", "512"]


def test_the_table_can_be_sorted_and_says_so(tickets):
    html = render_page(tickets, "", {})
    parsed = Parsed(html)
    heads = parsed.attributes("th")
    assert len(heads) == 16
    assert all(head["aria-sort"] == "none" and head["scope"] == "col" for head in heads)
    assert html.count('<button type="button"') == len(heads)
    values = [cell["data-value"] for cell in parsed.attributes("td")]
    assert values[16:20] == ["magnitude", "global", "", "0.3"]
    assert float(values[16 + 5]) == 3.0 / 0.98
    assert sum("win" in cell.get("class", "").split() for cell in parsed.attributes("td")) == 3


def test_names_are_text_and_never_markup(tickets):
    evil = tickets.assign(model=EVIL, data=EVIL, criterion=EVIL, scope=EVIL, device=EVIL)
    html = render_page(evil, "<svg/>", {EVIL: EVIL})
    parsed = Parsed(html)
    assert "evil.example" in parsed.text
    assert len(parsed.attributes("script")) == 1
    assert len(parsed.attributes("img")) == 1
    assert "<script>alert" not in html


def test_the_page_asks_for_nothing(tickets):
    svg = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    parsed = page(tickets, svg, {"hub": "https://example.org/model"})
    links = [v for _, attrs in parsed.tags for k, v in attrs.items() if k in ("src", "href", "srcset", "data")]
    (image,) = links
    prefix = "data:image/svg+xml;base64,"
    assert image.startswith(prefix)
    assert b64decode(image.removeprefix(prefix)).decode() == svg
    assert not parsed.attributes("link")
    assert any("default-src 'none'" in meta.get("content", "") for meta in parsed.attributes("meta"))
    assert "url(" not in render_page(tickets, svg, {})


def test_the_page_says_what_was_measured_and_its_limits(tickets):
    text = page(tickets, provenance={"commit": "abc123"}).text
    assert "org/small (1,200,000 weights, 1,000,000 of them prunable) on wiki: 16,368 predicted tokens" in text
    assert "in 16 sequences, float32, streamed on cpu." in text
    assert "A mask makes nothing faster by itself" in text
    assert "windows of one document are not independent" in text
    assert "in nats/token; lower is better" in text
    assert "Provenance commit abc123" in text
    assert text.index("sparsest winning") < text.index("Loss (left)") < text.index("All tickets")


def test_sections_and_columns_without_content_do_not_show(tickets):
    parsed = page(tickets[tickets.criterion != "random"], svg="")
    for absent in ("Provenance", "Loss (left)", "peak device memory", "seed", "The language model whose"):
        assert absent not in parsed.text
    assert not parsed.attributes("figure")
    gpu = tickets.assign(peak_device_bytes=2**30, model=["a", *"b" * 10])
    assert "peak device memory" in page(gpu).text
    assert page(gpu).cells[1][0] == "a"
    empty = page(tickets.iloc[:0], svg="")
    assert "There are no tickets to report on." in empty.text
    assert not empty.attributes("table")


def test_a_single_sequence_gives_no_intervals(tickets):
    bare = tickets.assign(**{key: math.nan for key in tickets if key.endswith(("_low", "_high"))})
    assert page(bare).cells[2][-8:-6] == ["0.9800", "+0.0612"]
    assert "95% interval 0" not in page(bare).text
    tradeoff_figure(bare)


# Figures


def test_equal_data_gives_equal_bytes_whatever_was_written_before(tickets, tmp_path):
    first, second = tradeoff_figure(tickets), tradeoff_figure(tickets.copy())
    save_figure(first, tmp_path / "1.png", tmp_path / "1.svg")
    save_figure(second, tmp_path / "2.svg", tmp_path / "2.png", tmp_path / "3.svg")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    svg = (tmp_path / "1.svg").read_text()
    assert svg == (tmp_path / "2.svg").read_text() == (tmp_path / "3.svg").read_text()
    assert "<metadata>" not in svg
    assert "Software" not in (tmp_path / "1.png").read_bytes()[:4000].decode("latin-1")
    save_figure(tradeoff_figure(tickets.assign(loss=tickets.loss * 1.1)), tmp_path / "4.svg")
    assert (tmp_path / "4.svg").read_text() != svg


def test_lines_are_means_over_seeds_with_the_seeds_as_points(tickets):
    figure = tradeoff_figure(tickets)
    retention = figure.axes[1]
    line = next(line for line in retention.lines if line.get_color() == "#D55E00" and line.get_linestyle() == "-")
    np.testing.assert_allclose(line.get_xydata(), [(0.3, 0.55), (0.5, 0.4)])
    points = next(line for line in retention.lines if line.get_linestyle() == "None")
    assert sorted(points.get_ydata()) == [0.3, 0.4, 0.5, 0.5, 0.55, 0.6]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "magnitude, global", "magnitude, layer", "random, global (mean of 3 seeds)", "dense model",
    ]  # fmt: skip
    assert {1.0, 0.9} <= {line.get_ydata()[0] for line in retention.lines if len(set(line.get_ydata())) == 1}
    assert "winning ticket ≥ 0.9" in [text.get_text() for text in retention.texts]


def test_bars_are_the_intervals_of_every_ticket(tickets):
    loss, retention = tradeoff_figure(tickets).axes
    for axes, low, high in (
        (
            loss,
            tickets.baseline_loss + tickets.loss_difference_low,
            tickets.baseline_loss + tickets.loss_difference_high,
        ),
        (retention, tickets.performance_retention_low, tickets.performance_retention_high),
    ):
        drawn = [segment for bars in axes.collections for segment in bars.get_segments()]
        expected = np.stack([tickets.sparsity, low, tickets.sparsity, high], axis=1)
        np.testing.assert_allclose(sorted(np.reshape(drawn, (-1, 4)).tolist()), sorted(expected.tolist()))


def test_the_loss_has_a_log_scale_only_where_it_spans_more_than_fourfold(tickets):
    assert tickets.loss.max() == 4 * 3.0
    assert tradeoff_figure(tickets).axes[0].get_yscale() == "linear"
    wide = pd.concat([tickets, frame(ticket(0.2, sparsity=0.9))])
    axes = tradeoff_figure(wide).axes[0]
    assert axes.get_yscale() == "log"
    assert 3.0 in [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def test_each_model_and_text_has_a_row_and_lines_look_the_same_in_all(tickets):
    both = pd.concat([tickets, tickets[tickets.scope == "layer"].assign(model="$_{x$", tokens=5_000)])
    figure = tradeoff_figure(both)
    assert len(figure.axes) == 4
    titles = [axes.get_title(loc="left") for axes in figure.axes[::2]]
    assert titles == [
        "$_{x$ on wiki, 5,000 tokens evaluated",
        "org/small on wiki, 16,368 tokens evaluated",
    ]
    looks = [
        {(line.get_color(), line.get_marker()) for line in axes.lines if line.get_linestyle() == ":"}
        for axes in figure.axes
    ]
    alone = tradeoff_figure(tickets[tickets.scope == "layer"]).axes[0].lines[0]
    assert looks == [{("#0072B2", "s")}] * 4 == [{(alone.get_color(), alone.get_marker())}] * 4
    assert plt.get_fignums() == []


def test_infinite_losses_and_single_points_can_be_drawn(tmp_path):
    extreme = frame(ticket(0.0, sparsity=0.99), ticket(math.nan, sparsity=0.9), ticket(0.95))
    save_figure(tradeoff_figure(extreme), tmp_path / "x.png")
    save_figure(tradeoff_figure(extreme.iloc[2:]), tmp_path / "x.svg")
    assert "inf" in page(extreme).cells[-1]


def test_what_cannot_be_drawn_or_written_is_refused(tickets, tmp_path):
    with pytest.raises(ValueError, match="no tickets"):
        tradeoff_figure(tickets.iloc[:0])
    with pytest.raises(ValueError, match=r"x\.pdf: a figure is written as \.png or \.svg"):
        save_figure(tradeoff_figure(tickets), tmp_path / "x.pdf")
    assert list(tmp_path.iterdir()) == []


# Terminal


def test_the_terminal_table_leads_with_the_dense_model_and_keeps_every_digit_at_80_characters(tickets):
    lines = printed(tickets, width=80).splitlines()
    assert lines[0].strip() == "org/small on wiki"
    assert lines[1].split() == [
        "criterion", "scope", "seed", "sparsity", "loss", "ppl", "acc.", "retention",
    ]  # fmt: skip
    rows = [line.split() for line in lines[3:15]]
    assert rows[0] == ["dense", "–", "–", "0%", "3.0000", "20.09", "40.00%", "1.000"]
    assert rows[-1] == [
        "magnitude", "global", "–", "70%", "12.0000", "162,755", "25.00%", "0.250", "[0.240,", "0.260]",
    ]  # fmt: skip


def test_columns_that_tell_nothing_apart_are_left_out(tickets):
    def headings(table):
        return [column.header for column in table.columns]

    deterministic = tickets[tickets.criterion != "random"]
    assert headings(summary_table(deterministic))[:3] == ["criterion", "scope", "sparsity"]
    models = pd.concat([deterministic, deterministic.assign(model="[bold]x[/bold]")])
    assert headings(summary_table(models))[:2] == ["model", "criterion"]
    assert "[bold]x[/bold]" in printed(models)
    narrow = printed(models.assign(criterion="a-long-name-of-a-criterion"), width=66)
    assert narrow.count("12.0000") == narrow.count("162,755") == 2
    texts = pd.concat([deterministic, deterministic.assign(data="other")])
    assert headings(summary_table(texts))[:2] == ["text", "criterion"]
    assert printed(texts).count("dense ") == 2 + 1  # one a text, one in the caption
    assert summary_table(tickets.iloc[:0]).row_count == 0


def test_winning_retentions_are_green_and_others_are_not(tickets):
    text = printed(tickets, force_terminal=True, color_system="standard")
    assert text.count("\x1b[32m") == 3
    assert "\x1b[32m0.920 [0.910, 0.930]" in text


def test_numbers_read_well():
    assert [perplexity(x) for x in (19.106, 9999.0, 44_589.8, 1.23e8, math.inf)] == [
        "19.11", "9,999.00", "44,590", "1.2e+08", "inf",
    ]  # fmt: skip
    assert [percent(x) for x in (0.1 + 0.2, 0.5, 0.999, 0.99995)] == ["30%", "50%", "99.9%", "99.995%"]
    assert [short_count(x) for x in (999, 12_345, 106_168_320, 70 * 10**9)] == [
        "999", "12.3K", "106.2M", "70.0B",
    ]  # fmt: skip
