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
        overlaps=grid.models(config, f"{grid.OVERLAP}.csv"),
        validations=grid.models(config, grid.VALIDATION),
        records=studies.records(config),
        connectivities=studies.connectivities(config),
        early_birds=studies.early_birds(config),
    output:
        table=f"{grid.REPORT}/tickets.csv",
        parquet=f"{grid.REPORT}/tickets.parquet",
        comparisons=f"{grid.REPORT}/comparisons.csv",
        comparisons_parquet=f"{grid.REPORT}/comparisons.parquet",
        curves=f"{grid.REPORT}/curves.csv",
        curves_parquet=f"{grid.REPORT}/curves.parquet",
        robustness=f"{grid.REPORT}/robustness.csv",
        robustness_parquet=f"{grid.REPORT}/robustness.parquet",
        simulations=f"{grid.REPORT}/simulations.csv",
        overlap=f"{grid.REPORT}/overlap.csv",
        validation=f"{grid.REPORT}/validation.csv",
        findings=f"{grid.REPORT}/findings.csv",
        findings_parquet=f"{grid.REPORT}/findings.parquet",
        trainings=f"{grid.REPORT}/trainings.csv",
        trainings_parquet=f"{grid.REPORT}/trainings.parquet",
        levels=f"{grid.REPORT}/levels.csv",
        levels_parquet=f"{grid.REPORT}/levels.parquet",
        connectivity=f"{grid.REPORT}/connectivity.csv",
        connectivity_parquet=f"{grid.REPORT}/connectivity.parquet",
        early_birds=f"{grid.REPORT}/early_birds.csv",
        early_birds_parquet=f"{grid.REPORT}/early_birds.parquet",
        figures=[
            f"{grid.REPORT}/{name}.{kind}"
            for name, drawn in (
                ("tradeoff", grid.baselines),
                ("levels", studies.records),
                ("connectivity", studies.connectivities),
                ("early_birds", studies.early_birds),
            )
            if drawn(config)
            for kind in ("png", "svg")
        ],
        page=f"{grid.REPORT}/index.html",
    log:
        "results/logs/report.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        code=code("scripts/make_report.py"),
        folder=subpath(output.table, parent=True),
        baselines=listed("baselines"),
        tickets=listed("tickets"),
        comparisons=listed("comparisons"),
        curves=listed("curves"),
        robustness=listed("robustness"),
        simulations=listed("simulations"),
        overlaps=listed("overlaps"),
        validations=listed("validations"),
        records=listed("records"),
        connectivities=listed("connectivities"),
        early_birds=listed("early_birds"),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --baselines {params.baselines} --tickets {params.tickets}"
        " --comparisons {params.comparisons} --curves {params.curves} --robustness {params.robustness} --simulations {params.simulations}"
        " --overlaps {params.overlaps} --validations {params.validations} --records {params.records}"
        " --connectivities {params.connectivities} --early-birds {params.early_birds}"
        " --output {params.folder}"
