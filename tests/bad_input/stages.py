"""Stages given damaged files, files that do not belong together, files of another kind, and values out of range."""

from bad_input.case import Case, on

COUNT = "--checkpoint @llama --criterion magnitude"
MASK = "--checkpoint @llama --histogram @llama.histogram --scope global --sparsity 0.5"
DENSE = "--checkpoint @llama --sequences @text.sequences"
TICKET = f"{DENSE} --mask @llama.mask --baseline @text.baseline"
DATA = "--source @text.txt --tokenizer @llama/tokenizer.json --sequence-length 16"
SMALLER = "--checkpoint @llama --mask @llama.mask"
TABLES = "--baselines @text.baseline --tickets @ticket"
REPORT = "--baselines @text.baseline --tables @tables/tickets.parquet"
VALIDATE = "--masks @llama.mask --checkpoint @llama"
TRUNCATED = ("@truncated/model.safetensors: ", "truncated")
NO_NUMBER = ("infinite or not a number",)
STAGES = {
    # damaged checkpoints
    "count-truncated": Case("histogram", on(COUNT, checkpoint="@truncated"), TRUNCATED),
    "mask-truncated": Case("mask", on(MASK, checkpoint="@truncated"), TRUNCATED),
    "evaluate-truncated": Case("evaluate", on(DENSE, checkpoint="@truncated"), TRUNCATED),
    **{
        f"{what}-{name}": Case(script, on(arguments, checkpoint=f"@{name}"), words)
        for name, words in {
            "mixed-up": ("@mixed-up/model.safetensors: has no tensor",),
            "lacking": ("@lacking/model.safetensors: has no tensor 'model.layers.1.mlp.up_proj.weight'",),
            "edited-manifest": ("@edited-manifest/manifest.json: ", "fingerprint"),
            "absent": ("@absent/manifest.json: no such file",),
            "text.txt": ("@text.txt/manifest.json: ",),
        }.items()
        for what, script, arguments in (
            ("count", "histogram", COUNT),
            ("count-random", "histogram", on(COUNT, criterion="random", seed="0")),
            ("mask", "mask", MASK),
            ("evaluate", "evaluate", DENSE),
        )
    },
    "evaluate-no-config": Case("evaluate", on(DENSE, checkpoint="@no-config"), ("@no-config/config.json: no such",)),
    **{
        f"{what}-{name}": Case(script, on(arguments, checkpoint=f"@{name}"), words)
        for name in ("nan", "inf", "minus-inf")
        for what, script, arguments, words in (
            ("count", "histogram", COUNT, ("'model.layers.1.mlp.up_proj.weight' has 1 weights", *NO_NUMBER)),
            ("mask", "mask", MASK, ("'model.layers.1.mlp.up_proj.weight' changed", "histogram stage again")),
            ("evaluate", "evaluate", DENSE, ("token losses are", *NO_NUMBER, "float32")),
        )
    },
    # things that do not belong together
    "histogram-of-another": Case("mask", on(MASK, histogram="@other.histogram"), ("@other.histogram: ", "@llama")),
    "histogram-of-twin": Case("mask", on(MASK, histogram="@twin.histogram"), ("@twin.histogram: ", "@llama")),
    "mask-of-another": Case("evaluate", on(TICKET, mask="@other.mask"), ("@other.mask: mask of another model",)),
    "mask-of-twin": Case("evaluate", on(TICKET, mask="@twin.mask"), ("@twin.mask: mask of another model",)),
    "baseline-of-other-text": Case(
        "evaluate", on(TICKET, baseline="@poem.baseline"), ("@poem.baseline: baseline does not match the sequences",)
    ),
    "baseline-of-twin": Case("evaluate", on(TICKET, checkpoint="@twin", mask="@twin.mask"), ("match the checkpoint",)),
    "baseline-is-a-ticket": Case("evaluate", on(TICKET, baseline="@ticket"), ("@ticket: metrics of a ticket", "dense")),
    "no-baseline": Case("evaluate", on(DENSE, mask="@llama.mask"), ("--baseline", "--mask")),
    "ticket-without-baseline": Case("tables", "--baselines @text.baseline --tickets @stranger", ("'stranger'",)),
    "ticket-is-dense": Case("tables", on(TABLES, tickets="@text.baseline"), ("tickets: ",)),
    "masks-of-two-models": Case("overlap", "--layers @no --masks @llama.mask @twin.sparser", ("another model",)),
    "mask-twice": Case("overlap", "--layers @no --masks @llama.mask @llama.mask", ("give each mask once",)),
    "compare-a-histogram": Case("overlap", "--layers @no --masks @llama.histogram", ("not a mask",)),
    "validate-a-histogram": Case("validation", VALIDATE.replace(".mask", ".histogram"), ("not a mask",)),
    "validate-without-manifest": Case(
        "validation", on(VALIDATE, checkpoint="@absent"), ("@absent/manifest.json: no such file",)
    ),
    "early-bird-of-two-models": Case("detect_early_bird", "--masks @llama.mask @other.mask", ("different weights",)),
    "early-bird-window": Case("detect_early_bird", "--masks @llama.mask --window 1", ("window: 1", "2 or more")),
    "report-of-no-overlap": Case("report", on(REPORT, tables="@overlap @ticket"), ("@ticket: not a table",)),
    "report-of-no-validation": Case("report", on(REPORT, tables="@absent"), ("@absent: no such file",)),
    "report-of-metrics": Case("report", on(REPORT, tables="@ticket"), ("@ticket: not a table of ltpipe",)),
    "report-of-masks-alone": Case("report", on(REPORT, tables="@overlap @validation"), ("tables: ", "tickets")),
    "report-of-a-table-by-tensor": Case("report", on(REPORT, tables="@layers"), ("not a table of a report",)),
    "no-tickets": Case("tables", "--baselines @text.baseline --tickets", ("tickets: ",)),
    "no-tickets-beside-trainings": Case(
        "report", "--baselines @text.baseline --records @record", ("tables: ",)
    ),
    "nothing-to-report": Case("report", "--baselines", ("tables: ",)),
    "ticket-twice": Case(
        "tables", on(TABLES, tickets="@ticket @ticket"), ("two metrics of one cell (", "sparsity 0.5")
    ),
    "baseline-twice": Case(
        "tables", on(TABLES, baselines="@text.baseline @text.baseline"), ("two metrics of one cell (", "once")
    ),
    "table-twice": Case(
        "report",
        on(REPORT, tables="@tables/tickets.parquet @tables/tickets.parquet"),
        ("@tables/tickets.parquet and @tables/tickets.parquet: two rows of one cell (model ", "different names"),
    ),
    "refine-a-mask": Case("refinement", "--to 0.01 --tickets @llama.mask", ("@llama.mask: not valid JSON",)),
    "refine-a-dense-model": Case("refinement", "--to 0.01 --tickets @text.baseline", ("not the metrics of a ticket",)),
    "refine-to-nothing": Case("refinement", "--to 0 --tickets @ticket", ("to: 0 is not allowed", "from 0.001 to 1")),
    "refine-after-a-ticket": Case(
        "refinement", "--to 0.01 --tickets @ticket --before @ticket", ("@ticket: not a refinement",)
    ),
    "record-twice": Case("report", on(REPORT, records="@record @record"), ("'lenet', replicate 0", "each once")),
    "no-record": Case("report", on(REPORT, records="@absent"), ("@absent: no such file",)),
    "record-is-a-ticket": Case("report", on(REPORT, records="@ticket"), ("@ticket: not a learning record",)),
    "record-is-half": Case("report", on(REPORT, records="@half-ticket"), ("@half-ticket: not valid JSON",)),
    "line-is-a-record": Case("report", on(REPORT, connectivities="@record"), ("@record: not a linear conn",)),
    "bird-is-a-line": Case("report", on(REPORT, early_birds="@line"), ("@line: not an early-bird",)),
    "options-are-no-json": Case("task", "--task images --options {x", ("options: '{x' is not a JSON object",)),
    "options-are-a-list": Case("task", "--task images --options [3]", ("options: '[3]' is not a JSON object",)),
    # files of another kind
    "sequences-are-a-mask": Case("evaluate", on(DENSE, sequences="@llama.mask"), ("@llama.mask: not ", "sequences")),
    "mask-is-a-histogram": Case("evaluate", on(TICKET, mask="@llama.histogram"), ("@llama.histogram: not a mask",)),
    "histogram-is-a-mask": Case("mask", on(MASK, histogram="@llama.mask"), ("@llama.mask: not a", "histogram")),
    "histogram-is-weights": Case("mask", on(MASK, histogram="@llama/model.safetensors"), ("not a", "histogram")),
    "histogram-is-text": Case("mask", on(MASK, histogram="@text.txt"), ("@text.txt: not a safetensors file",)),
    "histogram-is-empty": Case("mask", on(MASK, histogram="@empty"), ("@empty: ", "too short")),
    "tokenizer-is-a-config": Case("sequences", on(DATA, tokenizer="@llama/config.json"), ("@llama/config.json: ",)),
    "report-is-metrics": Case("print_table", "--report @ticket", ("@ticket: not a report (SHA256SUMS",)),
    "report-is-a-checkpoint": Case("print_table", "--report @llama", ("@llama: not a report (SHA256SUMS",)),
    # damaged metrics, wherever metrics are read
    **{
        f"{what}-{name}": Case(script, on(arguments, **{flag: f"@{name}"}), (f"@{name}: ", words))
        for name, words in {
            "half-ticket": "not valid JSON",
            "empty": "not valid JSON",
            "zeros": "not valid JSON",
            "list": "expected an object",
            "no-loss": "loss",
            "text-loss": "loss",
            "old": "format",
            "llama/model.safetensors": "not valid JSON",
        }.items()
        for what, script, arguments, flag in (
            ("ticket", "tables", TABLES, "tickets"),
            ("report", "report", REPORT, "baselines"),
            ("evaluate", "evaluate", TICKET, "baseline"),
        )
    },
    # files that are not there
    "no-histogram": Case("mask", on(MASK, histogram="@absent"), ("@absent: no such file",)),
    "no-sequences": Case("evaluate", on(DENSE, sequences="@absent"), ("@absent: no such file",)),
    "no-mask": Case("evaluate", on(TICKET, mask="@absent"), ("@absent: no such file",)),
    "no-baseline-file": Case("evaluate", on(TICKET, baseline="@absent"), ("@absent: no such file",)),
    "no-text": Case("sequences", on(DATA, source="@absent", name="mine"), ("data.mine.source: '@absent' does not",)),
    "no-tokenizer": Case("sequences", on(DATA, tokenizer="@absent"), ("@absent: ",)),
    "no-model": Case("checkpoint", "--source @absent --name mine", ("models.mine.source: '@absent' does not exist",)),
    "no-tokenizer-source": Case("checkpoint", "--source @source --tokenizer @absent", ("models.model.tokenizer: ",)),
    "no-metrics": Case("tables", on(TABLES, tickets="@absent"), ("@absent: no such file",)),
    "no-report": Case("print_table", "--report @absent", ("@absent: not a report",)),
    "neither-report-nor-study": Case("print_table", "", ("report: missing; name the folder",)),
    "metrics-are-a-folder": Case("tables", on(TABLES, tickets="@llama"), ("@llama: ",)),
    "output-below-a-file": Case("histogram", on(COUNT, output="@text.txt/out"), ("@text.txt",)),
    "output-is-a-folder": Case("histogram", on(COUNT, output="@llama"), ("@llama: is a folder",)),
    # values out of range
    "scope": Case("mask", on(MASK, scope="rows"), ("scope 'rows'", "global, layer")),
    "units": Case(
        "mask",
        on(MASK, checkpoint="@other", histogram="@other.histogram", scope="heads"),
        ("scope 'heads'", "GPT2LMHeadModel", "LlamaForCausalLM"),
    ),
    "units-of-no-config": Case("mask", on(MASK, checkpoint="@no-config", scope="heads"), ("@no-config/config",)),
    "units-nan": Case("mask", on(MASK, checkpoint="@nan", scope="channels"), ("up_proj.weight", "changed since")),
    "smaller-global": Case("smaller", SMALLER, ("@llama.mask: a mask of scope 'global'", "heads, channels")),
    "smaller-of-another": Case("smaller", on(SMALLER, mask="@other.mask"), ("@other.mask: mask of another",)),
    "smaller-truncated": Case("smaller", on(SMALLER, mask="@heads.mask", checkpoint="@truncated"), TRUNCATED),
    "smaller-output-there": Case(
        "smaller", on(SMALLER, mask="@heads.mask", output="@report"), ("@report: already exists", "empty")
    ),
    "criterion": Case("histogram", on(COUNT, criterion="beauty"), ("criterion 'beauty'", "magnitude, random")),
    "no-seed": Case("histogram", on(COUNT, criterion="random"), ("seed",)),
    **{
        f"sparsity-{value}": Case("mask", on(MASK, sparsity=value), (f"sparsity {shown}", "0 to 1"))
        for value, shown in {"1.5": "1.5", "-0.1": "-0.1", "1e400": "1e400"}.items()
    },
    **{
        f"sparsity-{value}": Case("mask", on(MASK, sparsity=value), (f"sparsity '{value}'", "0 to 1"))
        for value in ("abc", "nan", "inf", "1/0", "50%", "")
    },
    **{
        f"device-{value}": Case("evaluate", on(DENSE, device=value), (f"device: '{value}'", "use auto", "cpu"))
        for value in ("mps", "tpu", "cuda:x", "meta", "")
    },
    "include": Case("histogram", on(COUNT, include="*.attn.*"), ("prunable.include: '*.attn.*'",)),
    "exclude": Case("histogram", on(COUNT, exclude="*"), ("prunable: no weight",)),
    "threads-count": Case("histogram", on(COUNT, threads="-1"), ("threads: -1",)),
    "threads-mask": Case("mask", on(MASK, threads="-1"), ("threads: -1",)),
    "threads-evaluate": Case("evaluate", on(DENSE, threads="-1"), ("threads: -1",)),
    "micro-batch": Case("evaluate", on(DENSE, micro_batch="-1"), ("micro_batch: -1",)),
    "no-length": Case("sequences", on(DATA, sequence_length="0", name="mine"), ("data.mine: ", "0 tokens")),
    "too-long": Case("sequences", on(DATA, sequence_length="401", name="mine"), ("data.mine: ", "400", "401")),
    "too-many": Case("sequences", on(DATA, num_sequences="26", name="mine"), ("data.mine: ", "25", "26")),
    "none-wanted": Case("sequences", on(DATA, num_sequences="0"), ("data.text: 0 sequences",)),
    "pattern": Case("sequences", on(DATA, source="@report", files="*.txt"), ("'*.txt'", "@report")),
    "no-text-at-all": Case("sequences", on(DATA, source="@empty"), ("'@empty' is not a text", ".txt")),
    "bad-line": Case("sequences", on(DATA, source="@rows.jsonl"), ("@rows.jsonl: line 2", "'text' is int")),
    # sources that cannot be loaded; all of them are in tests/checkpoints/test_load.py
    "missing-shard": Case("checkpoint", "--source @one-shard-less", ("'@one-shard-less' has no shard model-00003",)),
    "missing-tensor": Case("checkpoint", "--source @one-tensor-less", ("missing keys model.layers.1.mlp.up_proj",)),
    "text-as-model": Case("checkpoint", "--source @text.txt", ("'@text.txt' is not a model", ".gguf")),
}  # fmt: skip
