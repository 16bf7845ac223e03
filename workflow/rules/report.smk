# Write the report on all tickets, trainings and analyses: tables, figures and a page.
rule report:
    input:
        baselines=grid.baselines(config),
        tables=reported.gathered(config),
        records=trainings.records(config),
        connectivities=trainings.connectivities(config),
        early_birds=trainings.early_birds(config),
    output:
        [report_file(*file) for file in reported.files(config).items()],
        sums=f"{reported.folder(config)}/SHA256SUMS",
    log:
        "results/logs/report.log",
    resources:
        **jobs.needs("report"),
    params:
        # The study as normalised YAML: the same study gives the same text, however it is written.
        settings=jobs.settings("report", config=jobs.study_text(reported.folder(config))),
        folder=subpath(output.sums, parent=True),
        baselines=listed("baselines"),
        tables=listed("tables"),
        records=listed("records"),
        connectivities=listed("connectivities"),
        early_birds=listed("early_birds"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/report.py" --baselines {params.baselines} --tables {params.tables} --records {params.records}'
        " --connectivities {params.connectivities} --early-birds {params.early_birds}"
        " --output {params.folder} --config {params.settings[config]:q}"
