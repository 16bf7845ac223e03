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
VALIDATE = "--masks @llama.mask --manifest @llama/manifest.json --config @llama/config.json"
TRUNCATED = ("@truncated/model.safetensors: ", "truncated")
NO_NUMBER = ("infinite or not a number",)
STAGES = {
    # damaged checkpoints
    "count-truncated": Case("count_keys", on(COUNT, checkpoint="@truncated"), TRUNCATED),
    "mask-truncated": Case("make_mask", on(MASK, checkpoint="@truncated"), TRUNCATED),
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
            ("count", "count_keys", COUNT),
            ("count-random", "count_keys", on(COUNT, criterion="random", seed="0")),
            ("mask", "make_mask", MASK),
            ("evaluate", "evaluate", DENSE),
        )
    },
    "evaluate-no-config": Case("evaluate", on(DENSE, checkpoint="@no-config"), ("@no-config/config.json: no such",)),
    **{
        f"{what}-{name}": Case(script, on(arguments, checkpoint=f"@{name}"), words)
        for name in ("nan", "inf", "minus-inf")
        for what, script, arguments, words in (
            ("count", "count_keys", COUNT, ("'model.layers.1.mlp.up_proj.weight' has 1 weights", *NO_NUMBER)),
            ("mask", "make_mask", MASK, ("'model.layers.1.mlp.up_proj.weight' changed", "histogram stage again")),
            ("evaluate", "evaluate", DENSE, ("token losses are", *NO_NUMBER, "float32")),
        )
    },
    # things that do not belong together
    "histogram-of-another": Case("make_mask", on(MASK, histogram="@other.histogram"), ("@other.histogram: ", "@llama")),
    "histogram-of-twin": Case("make_mask", on(MASK, histogram="@twin.histogram"), ("@twin.histogram: ", "@llama")),
    "mask-of-another": Case("evaluate", on(TICKET, mask="@other.mask"), ("@other.mask: mask of another model",)),
    "mask-of-twin": Case("evaluate", on(TICKET, mask="@twin.mask"), ("@twin.mask: mask of another model",)),
    "baseline-of-other-text": Case(
        "evaluate", on(TICKET, baseline="@poem.baseline"), ("@poem.baseline: baseline does not match the sequences",)
    ),
    "baseline-of-twin": Case("evaluate", on(TICKET, checkpoint="@twin", mask="@twin.mask"), ("match the checkpoint",)),
    "baseline-is-a-ticket": Case("evaluate", on(TICKET, baseline="@ticket"), ("@ticket: metrics of a ticket", "dense")),
    "no-baseline": Case("evaluate", on(DENSE, mask="@llama.mask"), ("--baseline", "--mask")),
    "ticket-without-baseline": Case("make_tables", "--baselines @text.baseline --tickets @stranger", ("'stranger'",)),
    "ticket-is-dense": Case("make_tables", on(TABLES, tickets="@text.baseline"), ("tickets: ",)),
    "masks-of-two-models": Case("compare_masks", "--layers @no --masks @llama.mask @twin.sparser", ("another model",)),
    "mask-twice": Case("compare_masks", "--layers @no --masks @llama.mask @llama.mask", ("give each mask once",)),
    "compare-a-histogram": Case("compare_masks", "--layers @no --masks @llama.histogram", ("not a mask",)),
    "validate-a-histogram": Case("validate_masks", VALIDATE.replace(".mask", ".histogram"), ("not a mask",)),
    "validate-without-manifest": Case("validate_masks", on(VALIDATE, manifest="@absent"), ("@absent: no such file",)),
    "early-bird-of-two-models": Case("detect_early_bird", "--masks @llama.mask @other.mask", ("different weights",)),
    "early-bird-window": Case("detect_early_bird", "--masks @llama.mask --window 1", ("window: 1", "2 or more")),
    "report-of-no-overlap": Case("make_report", on(REPORT, tables="@overlap @ticket"), ("@ticket: not a table",)),
    "report-of-no-validation": Case("make_report", on(REPORT, tables="@absent"), ("@absent: no such file",)),
    "report-of-metrics": Case("make_report", on(REPORT, tables="@ticket"), ("@ticket: not a table of ltpipe",)),
    "report-of-masks-alone": Case("make_report", on(REPORT, tables="@overlap @validation"), ("tables: ", "tickets")),
    "report-of-a-table-by-tensor": Case("make_report", on(REPORT, tables="@layers"), ("not a table of a report",)),
    "no-tickets": Case("make_tables", "--baselines @text.baseline --tickets", ("tickets: ",)),
    "no-tickets-beside-trainings": Case(
        "make_report", "--baselines @text.baseline --records @record", ("tables: ",)
    ),
    "nothing-to-report": Case("make_report", "--baselines", ("tables: ",)),
    "ticket-twice": Case(
        "make_tables", on(TABLES, tickets="@ticket @ticket"), ("two metrics of one cell (", "sparsity 0.5")
    ),
    "baseline-twice": Case(
        "make_tables", on(TABLES, baselines="@text.baseline @text.baseline"), ("two metrics of one cell (", "once")
    ),
    "table-twice": Case(
        "make_report",
        on(REPORT, tables="@tables/tickets.parquet @tables/tickets.parquet"),
        ("@tables/tickets.parquet and @tables/tickets.parquet: two rows of one cell (model ", "different names"),
    ),
    "refine-a-mask": Case("refine", "--to 0.01 --tickets @llama.mask", ("@llama.mask: not valid JSON",)),
    "refine-a-dense-model": Case("refine", "--to 0.01 --tickets @text.baseline", ("not the metrics of a ticket",)),
    "refine-to-nothing": Case("refine", "--to 0 --tickets @ticket", ("to: 0 is not allowed", "from 0.001 to 1")),
    "refine-after-a-ticket": Case(
        "refine", "--to 0.01 --tickets @ticket --before @ticket", ("@ticket: not a refinement",)
    ),
    "record-twice": Case("make_report", on(REPORT, records="@record @record"), ("'lenet', replicate 0", "each once")),
    "no-record": Case("make_report", on(REPORT, records="@absent"), ("@absent: no such file",)),
    "record-is-a-ticket": Case("make_report", on(REPORT, records="@ticket"), ("@ticket: not a learning record",)),
    "record-is-half": Case("make_report", on(REPORT, records="@half-ticket"), ("@half-ticket: not valid JSON",)),
    "line-is-a-record": Case("make_report", on(REPORT, connectivities="@record"), ("@record: not a linear conn",)),
    "bird-is-a-line": Case("make_report", on(REPORT, early_birds="@line"), ("@line: not an early-bird",)),
    "options-are-no-json": Case("prepare_task", "--task images --options {x", ("options: '{x' is not a JSON object",)),
    "options-are-a-list": Case("prepare_task", "--task images --options [3]", ("options: '[3]' is not a JSON object",)),
    # files of another kind
    "sequences-are-a-mask": Case("evaluate", on(DENSE, sequences="@llama.mask"), ("@llama.mask: not ", "sequences")),
    "mask-is-a-histogram": Case("evaluate", on(TICKET, mask="@llama.histogram"), ("@llama.histogram: not a mask",)),
    "histogram-is-a-mask": Case("make_mask", on(MASK, histogram="@llama.mask"), ("@llama.mask: not a", "histogram")),
    "histogram-is-weights": Case("make_mask", on(MASK, histogram="@llama/model.safetensors"), ("not a", "histogram")),
    "histogram-is-text": Case("make_mask", on(MASK, histogram="@text.txt"), ("@text.txt: not a safetensors file",)),
    "histogram-is-empty": Case("make_mask", on(MASK, histogram="@empty"), ("@empty: ", "too short")),
    "tokenizer-is-a-config": Case("prepare_data", on(DATA, tokenizer="@llama/config.json"), ("@llama/config.json: ",)),
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
            ("ticket", "make_tables", TABLES, "tickets"),
            ("report", "make_report", REPORT, "baselines"),
            ("evaluate", "evaluate", TICKET, "baseline"),
        )
    },
    # files that are not there
    "no-histogram": Case("make_mask", on(MASK, histogram="@absent"), ("@absent: no such file",)),
    "no-sequences": Case("evaluate", on(DENSE, sequences="@absent"), ("@absent: no such file",)),
    "no-mask": Case("evaluate", on(TICKET, mask="@absent"), ("@absent: no such file",)),
    "no-baseline-file": Case("evaluate", on(TICKET, baseline="@absent"), ("@absent: no such file",)),
    "no-text": Case("prepare_data", on(DATA, source="@absent", name="mine"), ("data.mine.source: '@absent' does not",)),
    "no-tokenizer": Case("prepare_data", on(DATA, tokenizer="@absent"), ("@absent: ",)),
    "no-model": Case("load_model", "--source @absent --name mine", ("models.mine.source: '@absent' does not exist",)),
    "no-tokenizer-source": Case("load_model", "--source @source --tokenizer @absent", ("models.model.tokenizer: ",)),
    "no-metrics": Case("make_tables", on(TABLES, tickets="@absent"), ("@absent: no such file",)),
    "no-report": Case("print_table", "--report @absent", ("@absent: not a report",)),
    "neither-report-nor-study": Case("print_table", "", ("report: missing; name the folder",)),
    "metrics-are-a-folder": Case("make_tables", on(TABLES, tickets="@llama"), ("@llama: ",)),
    "output-below-a-file": Case("count_keys", on(COUNT, output="@text.txt/out"), ("@text.txt",)),
    "output-is-a-folder": Case("count_keys", on(COUNT, output="@llama"), ("@llama: is a folder",)),
    # values out of range
    "scope": Case("make_mask", on(MASK, scope="rows"), ("scope 'rows'", "global, layer")),
    "units": Case(
        "make_mask",
        on(MASK, checkpoint="@other", histogram="@other.histogram", scope="heads"),
        ("scope 'heads'", "GPT2LMHeadModel", "LlamaForCausalLM"),
    ),
    "units-of-no-config": Case("make_mask", on(MASK, checkpoint="@no-config", scope="heads"), ("@no-config/config",)),
    "units-nan": Case("make_mask", on(MASK, checkpoint="@nan", scope="channels"), ("up_proj.weight", "changed since")),
    "smaller-global": Case("export_smaller", SMALLER, ("@llama.mask: a mask of scope 'global'", "heads, channels")),
    "smaller-of-another": Case("export_smaller", on(SMALLER, mask="@other.mask"), ("@other.mask: mask of another",)),
    "smaller-truncated": Case("export_smaller", on(SMALLER, mask="@heads.mask", checkpoint="@truncated"), TRUNCATED),
    "smaller-output-there": Case(
        "export_smaller", on(SMALLER, mask="@heads.mask", output="@report"), ("@report: already exists", "empty")
    ),
    "criterion": Case("count_keys", on(COUNT, criterion="beauty"), ("criterion 'beauty'", "magnitude, random")),
    "no-seed": Case("count_keys", on(COUNT, criterion="random"), ("seed",)),
    **{
        f"sparsity-{value}": Case("make_mask", on(MASK, sparsity=value), (f"sparsity {shown}", "0 to 1"))
        for value, shown in {"1.5": "1.5", "-0.1": "-0.1", "1e400": "1e400"}.items()
    },
    **{
        f"sparsity-{value}": Case("make_mask", on(MASK, sparsity=value), (f"sparsity '{value}'", "0 to 1"))
        for value in ("abc", "nan", "inf", "1/0", "50%", "")
    },
    **{
        f"device-{value}": Case("evaluate", on(DENSE, device=value), (f"device: '{value}'", "use auto", "cpu"))
        for value in ("mps", "tpu", "cuda:x", "meta", "")
    },
    "include": Case("count_keys", on(COUNT, include="*.attn.*"), ("prunable.include: '*.attn.*'",)),
    "exclude": Case("count_keys", on(COUNT, exclude="*"), ("prunable: no weight",)),
    "threads-count": Case("count_keys", on(COUNT, threads="-1"), ("threads: -1",)),
    "threads-mask": Case("make_mask", on(MASK, threads="-1"), ("threads: -1",)),
    "threads-evaluate": Case("evaluate", on(DENSE, threads="-1"), ("threads: -1",)),
    "micro-batch": Case("evaluate", on(DENSE, micro_batch="-1"), ("micro_batch: -1",)),
    "no-length": Case("prepare_data", on(DATA, sequence_length="0", name="mine"), ("data.mine: ", "0 tokens")),
    "too-long": Case("prepare_data", on(DATA, sequence_length="401", name="mine"), ("data.mine: ", "400", "401")),
    "too-many": Case("prepare_data", on(DATA, num_sequences="26", name="mine"), ("data.mine: ", "25", "26")),
    "none-wanted": Case("prepare_data", on(DATA, num_sequences="0"), ("data.text: 0 sequences",)),
    "pattern": Case("prepare_data", on(DATA, source="@report", files="*.txt"), ("'*.txt'", "@report")),
    "no-text-at-all": Case("prepare_data", on(DATA, source="@empty"), ("'@empty' is not a text", ".txt")),
    "bad-line": Case("prepare_data", on(DATA, source="@rows.jsonl"), ("@rows.jsonl: line 2", "'text' is int")),
    # sources that cannot be loaded; all of them are in tests/checkpoints/test_load.py
    "missing-shard": Case("load_model", "--source @one-shard-less", ("'@one-shard-less' has no shard model-00003",)),
    "missing-tensor": Case("load_model", "--source @one-tensor-less", ("missing keys model.layers.1.mlp.up_proj",)),
    "text-as-model": Case("load_model", "--source @text.txt", ("'@text.txt' is not a model", ".gguf")),
}  # fmt: skip
