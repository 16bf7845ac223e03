import json


# Plan what every stage will need before any of them runs: snakemake plan.
rule plan:
    output:
        f"{grid.PLAN}/plan.json",
    log:
        "results/logs/plan.log",
    localrule: True  # planning a cluster's jobs does not need the cluster
    resources:
        **jobs.needs("plan"),
    params:
        settings=jobs.settings("plan", study=json.dumps(config, sort_keys=True)),
    shell:
        'LTPIPE_LOG={log:q} python "$LTPIPE/scripts/plan.py" --study {params.settings[study]:q} --output {output}'
