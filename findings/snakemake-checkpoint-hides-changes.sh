#!/usr/bin/env bash
# snakemake 9.27.1, Python 3.11
#
# A rule whose results exist gets other params, another command and an input function that asks a new checkpoint which
# inputs there are. Nothing reruns: of a job that waits for a checkpoint no trigger is looked at, and a checkpoint whose
# output is missing counts as an intermediate file that nobody needs. The same change with inputs that are listed
# reruns the rule.
#
# Output seen:
#   inputs from a checkpoint: Nothing to be done
#   inputs that are listed: params have changed
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check snakemake==9.27.1

rules() { # params and input of the rule that gathers
  cat <<RULES
rule all:
    input: "table.txt"

rule table:
    input: $2
    output: "table.txt"
    params: names="$1"
    shell: "cat {input} > {output} # $1"

rule part:
    output: "{part}.txt"
    wildcard_constraints: part="one|two"
    shell: "echo {wildcards.part} > {output}"
RULES
}

rules "one" '"one.txt"' > before.smk
rules "one and two" '"one.txt", "two.txt"' > listed.smk
{
  cat <<'RULES'
def parts(wildcards):
    with open(checkpoints.chosen.get().output[0]) as names:
        return [f"{name}.txt" for name in names.read().split()]

RULES
  rules "one and two" parts
  cat <<'RULES'

checkpoint chosen:
    output: "chosen.list"
    shell: "echo one two > {output}"
RULES
} > asked.smk

snakemake() { venv/bin/snakemake --cores 1 "$@" 2>&1; }
expect() { # what is looked at, the text expected in it, the text itself
  if ! grep -q -- "$2" <<< "$3"; then
    printf 'changed: %s: expected "%s", got:\n%s\n' "$1" "$2" "$3"
    exit 1
  fi
  printf '%s: %s\n' "$1" "$2"
}

snakemake --snakefile before.smk > /dev/null
expect "inputs from a checkpoint" "Nothing to be done" "$(snakemake --dry-run --snakefile asked.smk)"
expect "inputs that are listed" "params have changed" "$(snakemake --dry-run --snakefile listed.smk)"
