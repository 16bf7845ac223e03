"""The report: verdicts on hand-made tickets, the page as a parser sees it, the terminal."""

import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from reports import comparisons_frame, curves_frame, frame, seeds, ticket, tickets_frame
from rich.console import Console

from ltpipe.reporting.cells import percent, value
from ltpipe.reporting.page import Content, render_page
from ltpipe.reporting.provenance import Provenance
from ltpipe.reporting.sections import SHOWN, Section, section
from ltpipe.reporting.terminal import summary_table, verdict_lines
from ltpipe.reporting.ticket_columns import perplexity
from ltpipe.reporting.verdicts import verdicts

EVIL = '</title></script><!--<script>alert("x")</script><img src="http://evil.example/x">'
NOWHERE = Provenance(None, False, "", {})


@pytest.fixture
def tickets():
    return tickets_frame()


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


def rendered(tickets, origin=NOWHERE, curves=None, leading=(), sections=()):
    curves = curves_frame().iloc[:0] if curves is None else curves
    return render_page(Content(tickets, curves, comparisons_frame(tickets), leading, sections, origin))


def page(tickets, *others, **more):
    return Parsed(rendered(tickets, *others, **more))


def printed(tickets, width=160, **options):
    console = Console(width=width, file=io.StringIO(), **options)
    console.print(summary_table(tickets))
    return console.file.getvalue()


# Verdicts


def judged(tickets, apart=0.02):
    return verdicts(tickets, curves_frame().iloc[:0], comparisons_frame(tickets, apart))


def test_the_winner_is_the_sparsest_ticket_that_wins_not_the_one_that_retains_most(tickets):
    (verdict,) = judged(tickets)
    assert (verdict.winner["criterion"], verdict.winner["scope"], verdict.winner["sparsity"]) == (
        "magnitude",
        "global",
        0.5,
    )
    assert pd.isna(verdict.winner["seed"])
    assert (verdict.evaluated, verdict.sparsest, verdict.closest["performance_retention"]) == (11, 0.7, 0.98)


def test_the_best_random_ticket_is_looked_for_at_the_winners_sparsity_alone(tickets):
    (verdict,) = judged(tickets)
    assert (verdict.randoms, verdict.random["seed"], verdict.random["performance_retention"]) == (3, 1, 0.5)
    (verdict,) = judged(tickets[(tickets.criterion != "random") | (tickets.sparsity != 0.5)])
    assert (verdict.winner["sparsity"], verdict.randoms, verdict.random) == (0.5, 0, None)


@pytest.mark.parametrize(("retention", "wins"), [(0.9, True), (math.nextafter(0.9, 0), False), (1.2, True)])
def test_a_ticket_wins_from_nine_tenths_on(retention, wins):
    (verdict,) = judged(frame(ticket(retention)))
    assert (verdict.winner is not None) == wins


def test_at_equal_sparsity_retention_decides_and_then_a_fixed_order_that_puts_random_last():
    ahead = frame(ticket(0.91, criterion="a"), ticket(0.93, criterion="z"), ticket(0.92, criterion="b"))
    assert judged(ahead)[0].winner["criterion"] == "z"
    equal = frame(*seeds([0.95, 0.95]), ticket(0.95, criterion="wanda", scope="row"), ticket(0.95, criterion="wanda"))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        (verdict,) = judged(equal.iloc[order])
        assert (verdict.winner["criterion"], verdict.winner["scope"]) == ("wanda", "global")
        assert verdict.random["seed"] == 0
    assert "no better than the best of 2 random tickets" in page(equal).text


def test_without_a_winner_the_closest_ticket_is_named():
    losing = frame(ticket(0.4, sparsity=0.7), ticket(0.8), *seeds([0.3]))
    (verdict,) = judged(losing)
    assert (verdict.winner, verdict.random, verdict.seeds) == (None, None, 0)
    assert verdict.closest["performance_retention"] == 0.8
    text = page(losing).text
    assert "None of the 3 tickets is a winning ticket" in text
    assert "The closest removes 50% of the prunable weights" in text
    assert "0.8000" in text
    assert "beats" not in text


def test_a_lucky_seed_is_told_from_a_configuration_that_wins():
    lucky = frame(*seeds([0.85, 0.91, 0.93]), *seeds([0.95], scope="layer", sparsity=0.3))
    (verdict,) = judged(lucky)
    assert (verdict.winner["seed"], verdict.seeds, verdict.seeds_winning, verdict.randoms) == (2, 3, 2, 2)
    text = page(lucky).text
    assert "2 of its 3 seeds reach a retention of 0.9" in text
    assert "a random mask itself" in text
    assert "beats" not in text


def test_masks_that_remove_nothing_and_losses_that_are_no_numbers_win_nothing():
    (verdict,) = judged(frame(ticket(1.0, sparsity=0.0), ticket(math.nan, sparsity=0.9), ticket(0.7, sparsity=0.2)))
    assert (verdict.winner, verdict.closest["performance_retention"]) == (None, 0.7)
    diverged = frame(ticket(math.nan))
    assert judged(diverged)[0].closest is None
    assert "None of the 1 tickets both removes weights and has a loss other than NaN" in page(diverged).text


def test_each_model_and_text_has_its_own_verdict():
    several = frame(
        ticket(0.95, model="b"), ticket(0.5, model="a"), ticket(0.91, model="a", data="other", sparsity=0.1)
    )
    assert [(v.model, v.data, v.winner and v.winner["sparsity"]) for v in judged(several)] == [
        ("a", "other", 0.1), ("a", "wiki", None), ("b", "wiki", 0.5),
    ]  # fmt: skip


def test_the_critical_sparsity_is_that_of_the_curve_that_falls_last(tickets):
    """A curve that never falls is ahead of one that falls where it ends; of one bracket the estimate decides."""

    def farthest(*curves):
        (verdict,) = verdicts(tickets, pd.concat(curves), comparisons_frame())
        estimate = verdict.critical["critical_sparsity_estimate"]
        return verdict.critical["scope"], None if pd.isna(estimate) else estimate, verdict.critical_shared

    falls, holds = curves_frame().iloc[:1], curves_frame().iloc[1:]
    assert farthest(falls, holds) == ("layer", None, 0)
    assert farthest(falls) == ("global", 0.51, 0)
    assert farthest(falls.assign(last_winning_sparsity=0.7, first_losing_sparsity=0.75), holds)[0] == "layer"
    assert farthest(falls, falls.assign(scope="row", critical_sparsity_estimate=0.6)) == ("row", 0.6, 1)
    assert verdicts(tickets, curves_frame(data="other"), comparisons_frame())[0].critical is None
    text = page(tickets, curves=falls).text
    assert "lies between 50% and 70% , the last winning and the first losing ticket." in text
    assert "gives an estimate of 51.0% [48.0%, 53.0%]; the brackets show how it would vary with other text" in text
    assert "falls:" not in text
    assert "the first of 2 falls" in page(tickets, curves=falls.assign(crossings=2)).text
    unsure = falls.assign(last_winning_significant=False, last_winning_kept=432_100)
    assert (
        "between 50% (prunes 56.8%), not significantly different from 0.9 and 70%" in page(tickets, curves=unsure).text
    )
    text = page(tickets, curves=holds).text
    assert "its critical sparsity is at least 70% , the sparsest ticket of the curve." in text
    assert "[48" not in page(tickets, curves=falls.assign(area_low=math.nan)).text


def test_tickets_that_change_nothing_are_an_alarm():
    words = "alarm: 1 of 3 tickets prune half of the weights or more and have exactly the dense model's loss"
    for retention, sparsity, said in ((1.0, 0.5, True), (1.0, 0.4, False), (0.999, 0.5, False)):
        table = frame(ticket(retention, sparsity=sparsity), *seeds([0.5, 0.6], sparsity=sparsity))
        assert (words in "\n".join(verdict_lines(judged(table)[0]))) == said
        assert ("Alarm" in page(table).text) == said


def standing(tickets, **options):
    (verdict,) = judged(tickets, **options)
    return verdict.standing


def test_a_ticket_wins_only_beside_a_control_and_over_a_dense_model_that_knows_something(tickets):
    """Told apart, or it says nothing: at chance nothing wins, and without a control nobody knows what it means."""
    assert standing(tickets) == "won"
    assert standing(tickets, apart=0.5) == "control", "0.92 against 0.5, but not told apart"
    assert standing(tickets[tickets.criterion != "random"]) == "uncontrolled"
    assert standing(tickets[(tickets.criterion != "random") | (tickets.sparsity != 0.5)]) == "uncontrolled"
    assert standing(frame(ticket(0.95), *seeds([0.96]))) == "control", "the winner is a random mask"
    assert standing(frame(ticket(0.8), *seeds([0.3]))) == "none"
    uniform = tickets["uniform_loss"].iloc[0]
    for loss, high, expected in (
        (uniform - 0.1, uniform + 0.1, "chance"),
        (uniform + 0.3, uniform + 0.4, "chance"),  # worse than guessing
        (uniform - 0.2, uniform - 0.1, "won"),
        (uniform - 0.2, math.nan, "won"),  # a single sequence: nothing but the number itself
        (uniform + 0.2, math.nan, "chance"),
    ):
        assert standing(tickets.assign(baseline_loss=loss, baseline_loss_high=high)) == expected


def test_no_verdict_is_said_on_the_page_and_in_the_terminal(tickets):
    guessing = tickets.assign(baseline_loss=10.81, baseline_loss_low=10.7, baseline_loss_high=10.9)
    parsed = page(guessing)
    assert "No verdict: the dense model is not significantly better than a uniform guess." in parsed.text
    assert "10.8100 nats/token (95% interval 10.7000 to 10.9000)" in parsed.text
    assert "has a loss of 10.8027" in parsed.text
    assert "sparsest winning" not in parsed.text
    assert "was chosen" not in parsed.text
    assert not any("win" in cell.get("class", "").split() for cell in parsed.attributes("td"))
    bare = tickets[tickets.criterion != "random"]
    text = page(bare).text
    assert "No verdict: there is no control, that is, no random ticket that removes 50%" in text
    for table, words in (
        (guessing, "no verdict: the dense model (loss 10.8100 nats/token) is not significantly better than"),
        (bare, "no verdict: no random ticket removes 50%; the sparsest ticket that would win: magnitude, global, 50%"),
        (tickets, "sparsest winning ticket: magnitude, global, 50%, retention 0.920"),
    ):
        lines = "\n".join(verdict_lines(judged(table)[0]))
        assert words in lines
        assert ("winning ticket" in lines) == (table is tickets)
    for article, won in ((page(guessing), False), (page(bare), False), (page(tickets), True)):
        (shown,) = article.attributes("article")
        assert ("won" in shown["class"].split()) == won
    green = printed(tickets, force_terminal=True, color_system="standard").count("\x1b[32m")
    assert green == 3
    assert "\x1b[32m" not in printed(guessing, force_terminal=True, color_system="standard")


def test_a_winner_is_named_with_those_that_it_is_not_told_apart_from():
    rivals = frame(ticket(0.92), ticket(0.915, criterion="taylor"), ticket(0.85, criterion="snip"), *seeds([0.3]))
    (verdict,) = judged(rivals)
    assert [one["criterion"] for one in verdict.beside] == ["taylor"]
    assert (
        "Not significantly different from it at this sparsity: taylor , scope global (retention 0.9150)."
        in page(rivals).text
    )
    assert "  no significant difference from taylor, global" in list(verdict_lines(verdict))
    many = frame(*(ticket(0.92 - index / 1000, criterion=name) for index, name in enumerate("abcdef")), *seeds([0.3]))
    assert "(retention 0.9170) and 2 more." in page(many).text
    assert "different from it" not in page(rivals.assign(sequences=1)).text, "one sequence tells nothing apart"


def test_a_winner_near_the_threshold_is_said_to_be():
    near = frame(ticket(0.905), *seeds([0.3]))
    assert "Its retention does not differ significantly from 0.9" in page(near).text
    assert "  its retention does not differ significantly from 0.9" in list(verdict_lines(judged(near)[0]))
    assert "differ significantly from" not in page(frame(ticket(0.95), *seeds([0.3]))).text


def test_the_winner_of_many_is_said_to_be_chosen_on_the_text_it_is_measured_on(tickets):
    assert "chosen on this same text" in page(tickets).text
    assert "chosen among them" not in page(frame(ticket(0.95))).text


# Page


def test_the_verdict_gives_exact_numbers_and_the_lead_over_random(tickets):
    text = page(tickets).text
    assert "The sparsest winning ticket removes 50% of the prunable weights: magnitude , scope global ." in text
    for stat in (
        "Retention 0.9200 95% interval 0.9100 to 0.9300",
        "Loss, nats/token 3.2609 dense model 3.0000",
        "Perplexity 26.07 dense model 20.09",
        "Accuracy, next token 25.00% dense model 40.00%",
        "Prunable weights kept 500,000 of 1,000,000",
        "Measured on 16,368 predicted tokens of wiki in 16 sequences (protocol documents), 11 tickets.",
    ):
        assert stat in text
    assert "best of 3 random tickets at the same sparsity ( random , scope global , seed 1 :" in text
    assert "by 0.4200 in retention and 2.7391 nats/token in loss" in text
    assert "No sparser ticket was evaluated" not in text
    assert "No sparser ticket was evaluated" in page(tickets[tickets.sparsity <= 0.5]).text


def test_the_table_holds_the_dense_model_and_every_ticket(tickets):
    rows = page(tickets).cells[1:]
    assert len(rows) == 1 + len(tickets)
    assert rows[0] == ["dense", "–", "–", "0%", "1,000,000", "3.0000", "20.09", "40.00%", "1.0000", "–", "–"]
    assert rows[1][:5] == ["magnitude", "global", "–", "30%", "700,000"]
    assert rows[3][:4] == ["random", "global", "0", "30%"]
    assert [cell.replace("\xa0", " ") for cell in rows[1][-3:]] == [
        "0.9800 [0.9700, 0.9900]", "+0.0612 [+0.0312, +0.0912]", "-15.00 [-17.00, -13.00]",
    ]  # fmt: skip


def test_cells_hold_values_at_full_precision_for_sorting_and_download(tickets):
    parsed = page(tickets)
    assert all(head["scope"] == "col" for head in parsed.attributes("th"))
    values = [cell["data-value"] for cell in parsed.attributes("td")]
    assert values[11:15] == ["magnitude", "global", "", "0.3"]
    assert float(values[11 + 5]) == 3.0 / 0.98
    assert sum("win" in cell.get("class", "").split() for cell in parsed.attributes("td")) == 3


def test_names_are_text_and_never_markup(tickets):
    evil = tickets.assign(model=EVIL, data=EVIL, criterion=EVIL, scope=EVIL, device=EVIL)
    listed = Section(EVIL, EVIL, (EVIL,), ((EVIL,),), file=EVIL)
    html = rendered(evil, Provenance(EVIL, True, EVIL, {EVIL: EVIL}), sections=[listed])
    parsed = Parsed(html)
    assert "evil.example" in parsed.text
    assert [script.get("type") for script in parsed.attributes("script")] == ["application/json", None]
    assert not parsed.attributes("img")
    assert "<script>alert" not in html
    assert "<!--" not in html


def test_the_page_asks_for_nothing(tickets):
    html = rendered(
        tickets, Provenance("abc", False, "a: https://example.org/model\n", {"hub": "https://example.org/model"})
    )
    parsed = Parsed(html)
    links = [v for _, attrs in parsed.tags for k, v in attrs.items() if k in ("src", "href", "srcset", "data")]
    assert links
    assert all(link.startswith("#") for link in links)
    assert not parsed.attributes("link")
    (policy,) = [
        meta["content"] for meta in parsed.attributes("meta") if "content" in meta and "none" in meta["content"]
    ]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert policy.count("'unsafe-inline'") == 1  # of styles
    assert "url(" not in html


def test_the_page_says_what_was_measured_and_its_limits(tickets):
    origin = Provenance("abc123", False, "models: {}\n", {"checkpoint": "f00"})
    text = page(tickets, origin).text
    assert "org/small (1,200,000 weights, 1,000,000 of them prunable) on wiki: 16,368 predicted tokens" in text
    assert "in 16 sequences (protocol documents), float32, streamed on cpu." in text
    assert "A mask alone makes nothing faster" in text
    assert "sequences of one document are not independent" in text
    assert "in nats/token; lower is better" in text
    assert "git checkout abc123 snakemake --cores all --resources gpu=1 --configfile config.yaml" in text
    assert "models: {}" in text
    assert "checkpoint f00" in text
    assert "The code had uncommitted changes" not in text
    assert "The code had uncommitted changes" in page(tickets, replace(origin, changed=True)).text
    unknown = page(tickets, replace(origin, commit=None)).text
    assert "git checkout" not in unknown
    assert "is unknown" in unknown
    assert (
        text.index("sparsest winning") < text.index("How the numbers were measured") < text.index("reproduce this page")
    )


def test_sections_and_columns_without_content_do_not_show(tickets):
    parsed = page(tickets[tickets.criterion != "random"])
    for absent in ("reproduce this page", "For papers", "agreement", "seed", "The language model whose"):
        assert absent not in parsed.text
    assert not parsed.attributes("figure")
    more = tickets.assign(agreement=0.5, agreement_low=0.4, agreement_high=0.6, model=["a", *"b" * 10])
    assert "agreement" in page(more).text
    assert page(more).cells[1][0] == "a"
    empty = page(tickets.iloc[:0])
    assert "There are no tickets to report on." in empty.text
    assert not empty.attributes("table")


def test_long_lists_are_told_of_and_lie_beside_the_page(tickets):
    def made(count):
        table = pd.DataFrame({"row": [f"row-{index}" for index in range(count)]})
        return section("Pairs", "note", table, {"row": value("row")}, file="pairs")

    whole, part = (Parsed(rendered(tickets, sections=[made(count)])) for count in (SHOWN, SHOWN + 1))
    assert f"row-{SHOWN - 1}" in whole.text
    assert "the first" not in whole.text
    assert f"row-{SHOWN - 1}" in part.text
    assert f"row-{SHOWN} " not in part.text
    assert "The first 1,000 of 1,001 rows; pairs.csv has all of them." in part.text
    assert {"href": "pairs.csv"} in part.attributes("a")


def test_a_single_sequence_gives_no_intervals(tickets):
    bare = tickets.assign(**{key: math.nan for key in tickets if key.endswith(("_low", "_high"))})
    assert page(bare).cells[2][-3:-1] == ["0.9800", "+0.0612"]
    assert "no interval" in page(bare).text
    assert "95% interval 0" not in page(bare).text


def test_equal_content_gives_an_equal_page_that_knows_no_time(tickets):
    assert rendered(tickets) == rendered(tickets_frame())
    assert not re.search(r"20\d\d-\d\d-\d\d", rendered(tickets))


def test_the_two_looks_are_in_the_page_as_data(tickets):
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', rendered(tickets))
    looks = json.loads(found)["looks"]
    assert looks["light"]["range"]["category"] != looks["dark"]["range"]["category"]


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
