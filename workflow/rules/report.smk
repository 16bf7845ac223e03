# Gather every ticket of the grid, and what the analyses say, in tables, a figure and a page.
rule report:
    input:
        script="scripts/make_report.py",
        code=code("scripts/make_report.py"),
        baselines=grid.baselines(config),
        tickets=[ticket.named(grid.TICKET) for ticket in grid.tickets(config)],
        overlaps=grid.models(config, f"{grid.OVERLAP}.csv"),
        validations=grid.models(config, grid.VALIDATION),
        perturbed=grid.perturbed(config),
        simulations=grid.simulations(config),
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
        png=f"{grid.REPORT}/tradeoff.png",
        svg=f"{grid.REPORT}/tradeoff.svg",
        page=f"{grid.REPORT}/index.html",
    log:
        "results/logs/report.log",
    params:
        folder=subpath(output.table, parent=True),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --baselines {input.baselines} --tickets {input.tickets}"
        " --overlaps {input.overlaps} --validations {input.validations} --perturbed {input.perturbed} --simulations {input.simulations}"
        " --output {params.folder}"
