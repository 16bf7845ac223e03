# Gather every ticket of the grid in tables, a figure and a page.
rule report:
    input:
        script="scripts/make_report.py",
        code=code("scripts/make_report.py"),
        baselines=grid.baselines(config),
        tickets=[ticket.named(grid.TICKET) for ticket in grid.tickets(config)],
        perturbed=grid.perturbed(config),
    output:
        table=f"{grid.REPORT}/tickets.csv",
        parquet=f"{grid.REPORT}/tickets.parquet",
        robustness=f"{grid.REPORT}/robustness.csv",
        robustness_parquet=f"{grid.REPORT}/robustness.parquet",
        png=f"{grid.REPORT}/tradeoff.png",
        svg=f"{grid.REPORT}/tradeoff.svg",
        page=f"{grid.REPORT}/index.html",
    log:
        "results/logs/report.log",
    params:
        folder=subpath(output.table, parent=True),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --baselines {input.baselines} --tickets {input.tickets}"
        " --perturbed {input.perturbed} --output {params.folder}"
