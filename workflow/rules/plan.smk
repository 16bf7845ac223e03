import json


localrules:
    plan,  # a cluster is not needed to say what a job on it will need


# Say what every stage will need, before any of them runs: snakemake plan.
rule plan:
    input:
        script="scripts/plan.py",
    output:
        f"{grid.PLAN}/plan.json",
    log:
        "results/logs/plan.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("plan", "scripts/plan.py", study=json.dumps(config, sort_keys=True)),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --study {params.settings[study]:q} --output {output}"
