"""The report as one self-contained HTML page."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from ltpipe.evaluation.quality import WINNING_RETENTION
from ltpipe.reporting.cells import percent
from ltpipe.reporting.charts import Figure
from ltpipe.reporting.critical import estimate_text, losing_text, winning_text
from ltpipe.reporting.provenance import Provenance
from ltpipe.reporting.sections import SHOWN, Section
from ltpipe.reporting.theme import DARK, FONT, LIGHT, vega_config
from ltpipe.reporting.ticket_columns import TICKET_COLUMNS, best_tickets, shown_columns, wins, with_baselines
from ltpipe.reporting.training_verdicts import TrainingVerdict
from ltpipe.reporting.verdicts import verdicts

MEASURED_ON = (
    "model", "data", "tokens", "sequences", "protocol", "precision", "device", "execution", "total", "parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Content:
    """The content of the page.

    Attributes:
        tickets: one row per ticket; losses in nats/token, fractions as 0..1, memory in bytes, times in seconds.
        curves: one row for all tickets that differ only in sparsity.
        comparisons: one row per pair of tickets of one sparsity.
        leading: sections before the table of tickets.
        sections: sections after it.
        provenance: inputs, code and configuration of the report.
        trainings: names of the trainings.
        training_verdicts: verdicts on their tickets.
    """

    tickets: pd.DataFrame
    curves: pd.DataFrame
    comparisons: pd.DataFrame
    leading: Sequence[Section]
    sections: Sequence[Section]
    provenance: Provenance
    trainings: Sequence[str] = ()
    training_verdicts: Sequence[TrainingVerdict] = ()

    @property
    def figures(self) -> list[Figure]:
        """All figures, in the order of the page."""
        return [section.figure for section in (*self.leading, *self.sections) if section.figure]


def render_page(content: Content) -> str:
    """Render the report as one HTML page that loads nothing else; equal content gives equal text."""
    environment = Environment(
        loader=PackageLoader("ltpipe", "reporting/page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # {{ value | loss }} shows any loss as the table does.
    environment.filters.update({column.key: column.show for column in TICKET_COLUMNS}, percent=percent)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "ensure_ascii": False}
    tickets = content.tickets
    shown = best_tickets(tickets, SHOWN)
    scripts = [library(), asset("page.js")] if content.figures else [asset("page.js")]
    return environment.get_template("page.html").render(
        names=[*sorted(tickets["model"].unique()), *content.trainings],
        verdicts=verdicts(tickets, content.curves, content.comparisons),
        training_verdicts=content.training_verdicts,
        winning=WINNING_RETENTION,
        columns=shown_columns(tickets),
        rows=with_baselines(shown).to_dict("records") if len(shown) else [],
        shown=len(shown),
        evaluated=len(tickets),
        wins=wins,
        winning_text=winning_text,
        losing_text=losing_text,
        estimate_text=estimate_text,
        missing=pd.isna,
        measured=tickets[list(MEASURED_ON)].drop_duplicates().to_dict("records"),
        leading=content.leading,
        sections=content.sections,
        provenance=content.provenance,
        styles=asset("page.css"),
        font=FONT,
        light=LIGHT.variables,
        dark=DARK.variables,
        scripts=scripts,
        hashes=[f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts],
        data={
            "looks": {"light": vega_config(LIGHT), "dark": vega_config(DARK)},
            "views": {name: spec for figure in content.figures for name, spec in specs(figure).items()},
        },
    )


def specs(figure: Figure) -> dict[str, dict[str, object]]:
    """Return the specifications of a figure's views, by their names on the page."""
    return {f"{figure.name}-{number}": view.spec for number, view in enumerate(figure.views)}


@cache
def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script."""
    return _inline(vl_convert.javascript_bundle())  # type: ignore[call-arg]  # its stub forgets the default


def asset(name: str) -> str:
    """Return a file of this package to be embedded in the page."""
    return _inline(files("ltpipe.reporting.page").joinpath(name).read_text(encoding="utf-8"))


def _inline(code: str) -> str:
    """Escape closing tags, so that code does not end its own element; to JavaScript, an escaped slash is a slash."""
    return code.replace("</script", "<\\/script")
