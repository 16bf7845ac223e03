"""The page in a real browser: nothing asked for, nothing complained of, and everything on it works.

One browser, one page for all tests; the quick suite looks at it once. Skipped where there is no Chromium (Debian:
chromium) or no playwright.
"""

import os
import re
import shutil

import pandas as pd
import pytest
from reports import TRAININGS, tables, ticket, tickets_frame

from ltpipe.reporting.page import render_page
from ltpipe.reporting.provenance import Provenance
from ltpipe.reporting.report import page_content

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no chromium", allow_module_level=True)

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
ORIGIN = Provenance("0" * 40, True, "models: {}\n", {"checkpoint of org/small, wiki": "f" * 64})
FIGURES = ["levels", "connectivity", "early_birds", "tradeoff", "critical", "overlap", "layers", "costs"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as library:
        chromium = library.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    more = pd.concat([tickets_frame(), *(pd.DataFrame([ticket(0.2 + 0.01 * each, criterion="</script>", seed=each)])
                                         for each in range(30))])  # fmt: skip
    path.write_text(render_page(page_content(tables(more), ORIGIN, TRAININGS)), encoding="utf-8")
    return path


class Watched:
    """A page, and all that went wrong on it or left it."""

    def __init__(self, context, file):
        self.complaints, self.requests = [], []
        self.page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())

    def draw_everything(self):
        """Look at every chart: they are drawn when they come near the window."""
        for place in self.page.query_selector_all(".chart"):
            place.scroll_into_view_if_needed()
            name = place.get_attribute("data-view")
            self.page.wait_for_selector(f'.chart[data-view="{name}"][data-drawn] svg', timeout=60_000)


@pytest.fixture(scope="module")
def wide(browser, file):
    context = browser.new_context(viewport=WIDE, color_scheme="light", accept_downloads=True)
    watched = Watched(context, file)
    watched.draw_everything()
    yield watched
    context.close()


@pytest.fixture
def page(wide):
    return wide.page


def table(page, name):
    return page.locator(f'table[data-file="{name}"]')


def column(page, name, index):
    return table(page, name).locator(f"tbody tr td:nth-child({index})").all_inner_texts()


def test_figures_have_marks_tables_are_sorted_and_filtered_and_nothing_is_asked_for_or_complained_of(wide, file):
    views = {
        place.get_attribute("data-view"): len(place.query_selector_all("svg .role-mark :is(path, line)"))
        for place in wide.page.query_selector_all(".chart")
    }
    assert [re.sub(r"-\d+$", "", name) for name in views] == FIGURES
    assert all(marks > 2 for marks in views.values()), views
    assert not wide.page.query_selector_all(".still:visible")
    for section in ("tickets", "levels-of-iterative-magnitude-pruning", "critical-sparsity"):
        place = wide.page.locator(f"#{section} .scroll")
        room, needed = (place.evaluate(f"place => place.{width}") for width in ("clientWidth", "scrollWidth"))
        assert needed == room, f"the table of {section} fits"
    table(wide.page, "tickets").get_by_role("button", name="retention").click()
    wide.page.locator("#tickets .tools").get_by_label("Filter").fill("random 30%")
    assert column(wide.page, "tickets", 1) == ["random"] * 3
    shown = [float(text.split()[0]) for text in column(wide.page, "tickets", 9)]
    assert shown == sorted(shown)
    wide.page.locator("#tickets .tools").get_by_label("Filter").fill("")
    assert wide.complaints == []
    assert [url for url in wide.requests if not url.startswith("data:")] == [file.as_uri()]


@pytest.mark.slow
def test_tickets_are_sorted_by_value_and_back(page):
    heading = table(page, "tickets").get_by_role("button", name="retention")
    head = heading.locator("xpath=..")
    for _ in range(2):
        heading.click()
        ascending = head.get_attribute("aria-sort") == "ascending"
        shown = [float(text.split()[0].strip("✓\xa0")) for text in column(page, "tickets", 9)]
        assert shown == sorted(shown, reverse=not ascending)
        assert len(shown) == 25


@pytest.mark.slow
def test_tickets_are_filtered_by_words_and_turned_a_page_at_a_time(page):
    tools, heading = page.locator("#tickets .tools"), table(page, "tickets").get_by_role("button", name="retention")
    while heading.locator("xpath=..").get_attribute("aria-sort") != "descending":
        heading.click()
    assert "1 to 25 of 42 rows" in tools.inner_text()
    tools.get_by_role("button", name="Next").click()
    assert "26 to 42 of 42 rows" in tools.inner_text()
    tools.get_by_label("Filter").fill("random 30%")
    assert column(page, "tickets", 1) == ["random"] * 3
    assert "3 rows (of 42)" in tools.inner_text()
    with page.expect_download() as download:
        tools.get_by_role("button", name="Download CSV").click()
    found = pd.read_csv(download.value.path())
    assert download.value.suggested_filename == "tickets-page.csv"
    assert found["retention"].tolist() == sorted(found["retention"], reverse=True)
    assert set(found["loss nats/token"]) == {3 / 0.5, 3 / 0.55, 3 / 0.6}
    tools.get_by_label("Filter").fill("")
    assert len(column(page, "tickets", 1)) == 25


@pytest.mark.slow
def test_clicking_the_legend_fades_the_others(page):
    points = page.locator('.chart[data-view="tradeoff-0"] .mark-symbol.role-mark path')
    opacities = lambda: {mark.get_attribute("opacity") for mark in points.all()}  # noqa: E731
    assert opacities() == {"1"}
    page.locator('.chart[data-view="tradeoff-0"]').get_by_text("random", exact=True).click(force=True)
    page.wait_for_timeout(300)
    assert opacities() == {"1", "0.08"}
    page.locator('.chart[data-view="tradeoff-0"] svg').click(position={"x": 3, "y": 3}, force=True)
    page.wait_for_timeout(300)
    assert opacities() == {"1"}


@pytest.mark.slow
def test_legends_are_reached_and_pressed_by_keys(page):
    points = page.locator('.chart[data-view="tradeoff-0"] .mark-symbol.role-mark path')
    opacities = lambda: {mark.get_attribute("opacity") for mark in points.all()}  # noqa: E731
    entries = page.locator('.chart[data-view="tradeoff-0"] [role=button]')
    assert [entry.get_attribute("aria-label") for entry in entries.all()][:2] == [
        "Show magnitude alone", "Show random alone",
    ]  # fmt: skip
    entries.first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert opacities() == {"1", "0.08"}
    assert points.first.get_attribute("opacity") == "0.08", "magnitude"
    page.keyboard.press("Escape")
    page.wait_for_timeout(300)
    assert opacities() == {"1"}


@pytest.mark.slow
def test_a_tooltip_names_the_unit_and_the_interval(page):
    page.locator('.chart[data-view="tradeoff-0"] .mark-symbol.role-mark path').first.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "dense loss / ticket loss" in tooltip.inner_text()
    assert re.search(r"95% interval\s+0\.\d{4} to 0\.\d{4}", tooltip.inner_text())


@pytest.mark.slow
def test_another_sparsity_is_chosen_for_masks(page):
    cells = page.locator('.chart[data-view="layers-0"] .mark-rect.role-mark path')
    before = cells.first.get_attribute("fill")
    page.locator('.chart[data-view="layers-0"] select').select_option(label="30%")
    page.wait_for_timeout(300)
    assert cells.first.get_attribute("fill") != before


@pytest.mark.slow
def test_the_theme_follows_the_system_until_it_is_chosen_and_charts_follow_it(browser, file):
    context = browser.new_context(viewport=WIDE, color_scheme="dark")
    watched = Watched(context, file)
    page = watched.page
    background = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    assert background() == "rgb(20, 23, 27)"
    first = page.locator(".chart").first
    first.scroll_into_view_if_needed()
    page.wait_for_selector('.chart[data-drawn="dark"] svg')
    page.get_by_role("button", name="Light theme").click()
    assert background() == "rgb(255, 255, 255)"
    first.scroll_into_view_if_needed()  # charts far from the window wait until they are looked at
    page.wait_for_selector('.chart[data-drawn="light"] svg')
    page.reload()
    assert background() == "rgb(255, 255, 255)", "the choice is remembered"
    page.emulate_media(media="print")
    assert page.locator(".still").first.is_visible()
    assert not page.locator(".live").first.is_visible()
    assert not page.locator("#theme").is_visible()
    assert watched.complaints == []
    context.close()


@pytest.mark.slow
def test_paper_is_white_whatever_the_theme(browser, file):
    context = browser.new_context(color_scheme="dark")
    page = Watched(context, file).page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--page').trim()") == "#ffffff"
    context.close()


@pytest.mark.slow
def test_a_phone_shows_all_without_moving_sideways(browser, file):
    context = browser.new_context(viewport=NARROW)
    watched = Watched(context, file)
    watched.draw_everything()
    assert watched.page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    widths = watched.page.evaluate(
        "[...document.querySelectorAll('.chart svg')].map((svg) => svg.getBoundingClientRect().right)"
    )
    assert max(widths) <= NARROW["width"]
    gaps = watched.page.evaluate("""[...document.querySelectorAll('.chart:not(:has(select))')].map((chart) => {
        const svg = chart.querySelector('svg'), box = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
        return box.top - chart.getBoundingClientRect().top + box.height - box.width * view.height / view.width;
    })""")
    assert max(map(abs, gaps)) < 2, "no gap above a figure, nor below where it is drawn smaller"
    assert watched.complaints == []
    context.close()


@pytest.mark.slow
def test_the_page_says_everything_without_scripts(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".still").first.is_visible()
    assert page.locator("#tickets tbody tr").count() == 42
    assert not page.locator("#theme").is_visible()
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_barrier(browser, file, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(viewport=WIDE, color_scheme=theme, bypass_csp=True)
    watched = Watched(context, file)
    watched.draw_everything()
    found = axe.run(watched.page).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found] == []
    context.close()
