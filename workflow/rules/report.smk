from ltpipe.workflow.figures import figures
from ltpipe.workflow.study import as_text


# Gather every ticket, every training, and what the analyses say, in tables, figures and a page.
rule report:
    input:
        script="scripts/make_report.py",
        baselines=grid.baselines(config),
        tickets=grid.models(config, f"{grid.TABLES}/tickets.parquet"),
        comparisons=grid.models(config, f"{grid.TABLES}/comparisons.parquet"),
        curves=grid.models(config, f"{grid.TABLES}/curves.parquet"),
        robustness=grid.models(config, f"{grid.TABLES}/robustness.parquet"),
        simulations=grid.models(config, f"{grid.TABLES}/simulations.parquet"),
        costs=grid.models(config, f"{grid.TABLES}/costs.parquet"),
        overlaps=grid.models(config, f"{grid.OVERLAP}.csv"),
        validations=grid.models(config, f"{grid.VALIDATION}.csv"),
        layers=grid.models(config, f"{grid.VALIDATION}.parquet"),
        records=studies.records(config),
        connectivities=studies.connectivities(config),
        early_birds=studies.early_birds(config),
    output:
        table=report(
            f"{grid.REPORT}/tickets.csv",
            caption="../report/tickets.rst",
            category="Tickets",
            labels={"what": "tickets", "kind": "table"},
        ),
        parquet=f"{grid.REPORT}/tickets.parquet",
        comparisons=f"{grid.REPORT}/comparisons.csv",
        comparisons_parquet=f"{grid.REPORT}/comparisons.parquet",
        curves=report(
            f"{grid.REPORT}/curves.csv",
            caption="../report/curves.rst",
            category="Tickets",
            labels={"what": "critical sparsity", "kind": "table"},
        ),
        curves_parquet=f"{grid.REPORT}/curves.parquet",
        robustness=f"{grid.REPORT}/robustness.csv",
        robustness_parquet=f"{grid.REPORT}/robustness.parquet",
        simulations=f"{grid.REPORT}/simulations.csv",
        overlap=f"{grid.REPORT}/overlap.csv",
        validation=f"{grid.REPORT}/validation.csv",
        layers=f"{grid.REPORT}/layers.parquet",
        costs=report(
            f"{grid.REPORT}/costs.csv",
            caption="../report/costs.rst",
            category="Time and memory",
            labels={"what": "time and memory", "kind": "table"},
        ),
        costs_parquet=f"{grid.REPORT}/costs.parquet",
        findings=report(
            f"{grid.REPORT}/findings.csv",
            caption="../report/findings.rst",
            category="Trainings",
            labels={"what": "findings", "kind": "table"},
        ),
        findings_parquet=f"{grid.REPORT}/findings.parquet",
        trainings=f"{grid.REPORT}/trainings.csv",
        trainings_parquet=f"{grid.REPORT}/trainings.parquet",
        levels=f"{grid.REPORT}/levels.csv",
        levels_parquet=f"{grid.REPORT}/levels.parquet",
        connectivity=f"{grid.REPORT}/connectivity.csv",
        connectivity_parquet=f"{grid.REPORT}/connectivity.parquet",
        early_birds=f"{grid.REPORT}/early_birds.csv",
        early_birds_parquet=f"{grid.REPORT}/early_birds.parquet",
        config=f"{grid.REPORT}/config.yaml",
        svgs=[
            report(
                f"{grid.REPORT}/{figure.name}.svg",
                caption=f"../report/{figure.name}.rst",
                category=figure.category,
                labels={"what": figure.name.replace("_", " "), "kind": "figure"},
            )
            for figure in figures(config)
        ],
        pngs=[f"{grid.REPORT}/{figure.name}.png" for figure in figures(config)],
        page=report(
            f"{grid.REPORT}/index.html",
            caption="../report/page.rst",
            category="The page",
            labels={"what": "the page", "kind": "page"},
        ),
    log:
        "results/logs/report.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        # What was asked for, in words: however it is written, the same study is the same text.
        settings=settings("report", "scripts/make_report.py", config=as_text(config)),
        folder=subpath(output.table, parent=True),
        baselines=listed("baselines"),
        tickets=listed("tickets"),
        comparisons=listed("comparisons"),
        curves=listed("curves"),
        robustness=listed("robustness"),
        simulations=listed("simulations"),
        costs=listed("costs"),
        overlaps=listed("overlaps"),
        validations=listed("validations"),
        layers=listed("layers"),
        records=listed("records"),
        connectivities=listed("connectivities"),
        early_birds=listed("early_birds"),
    shell:
        TOLD + "python {input.script} --baselines {params.baselines} --tickets {params.tickets}"
        " --comparisons {params.comparisons} --curves {params.curves} --robustness {params.robustness} --simulations {params.simulations}"
        " --costs {params.costs} --overlaps {params.overlaps} --validations {params.validations} --layers {params.layers}"
        " --records {params.records} --connectivities {params.connectivities} --early-birds {params.early_birds}"
        " --output {params.folder} --config {params.settings[config]:q}"
