#!/usr/bin/env bash
# snakemake 9.27.1, Python 3.11
#
# The "params" rerun trigger compares the set of the values of a job's params: names, order and number are lost.
# Exchanging the values of two params, or letting one take the value of another that it stood beside, keeps the old
# output, although the command would be another. So does a numpy integer, at any value: it is not recorded. The same
# values inside one dict are compared.
#
# Output seen:
#   made with: 16 4
#   params apart, asked for 4 16: Nothing to be done
#   numpy integer, asked for 2: Nothing to be done
#   one dict, asked for 4 16: params have changed
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check snakemake==9.27.1 numpy==2.3.5

cat > Snakefile <<'RULES'
import numpy

batch, length = config["pair"]

rule all:
    input: "apart.txt", "numpy.txt", "together.txt"

rule apart:
    output: "apart.txt"
    params: batch=batch, length=length
    shell: "echo {params.batch} {params.length} > {output}"

rule scalar:
    output: "numpy.txt"
    params: seed=numpy.int64(config["seed"])
    shell: "echo {params.seed} > {output}"

rule together:
    output: "together.txt"
    params: settings={"batch": batch, "length": length}
    shell: "echo {params.settings[batch]} {params.settings[length]} > {output}"
RULES

printf 'pair: [16, 4]\nseed: 1\n' > before.yaml
printf 'pair: [4, 16]\nseed: 2\n' > after.yaml

snakemake() { venv/bin/snakemake --cores 1 "$@" 2>&1; }
expect() { # what is looked at, the text expected in it, the text itself
  if ! grep -q -- "$2" <<< "$3"; then
    printf 'changed: %s: expected "%s", got:\n%s\n' "$1" "$2" "$3"
    exit 1
  fi
  printf '%s: %s\n' "$1" "$2"
}

snakemake --configfile before.yaml > /dev/null
expect "made with" "16 4" "$(cat apart.txt)"
expect "params apart, asked for 4 16" "Nothing to be done" "$(snakemake --dry-run apart.txt --configfile after.yaml)"
expect "numpy integer, asked for 2" "Nothing to be done" "$(snakemake --dry-run numpy.txt --configfile after.yaml)"
expect "one dict, asked for 4 16" "params have changed" "$(snakemake --dry-run together.txt --configfile after.yaml)"
