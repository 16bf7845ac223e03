#!/bin/bash
# Clear up after a snakemake that was killed on a SLURM cluster, so that it can be started again. Run it in the working folder:
#
#   profiles/slurm/restart.sh --configfile my.yaml && snakemake --workflow-profile profiles/slurm --configfile my.yaml …
#
# A killed snakemake leaves its jobs behind, and a new one does not know them: it would run the same jobs beside them.
# So they are cancelled, and waited for, and only then the folder is unlocked. What had ended is kept.
set -euo pipefail

[[ -d .snakemake/log ]] || { echo "error: no snakemake has run in $PWD" >&2; exit 1; }
# Every snakemake names its jobs with a run ID of its own, which it logs before it submits the first one.
mapfile -t runs < <(find .snakemake/log -name '*.log' -exec sed -n 's/^SLURM run ID: //p' {} + | sort -u)
((${#runs[@]})) || { echo "no run on SLURM is known here" >&2; exit 0; }
for run in "${runs[@]}"; do scancel --me --name="$run"; done
left=yes
while [[ -n $left ]]; do
  sleep 1
  left=$(squeue --me --noheader --name="$(IFS=, && echo "${runs[*]}")") # ends this script where squeue has no answer
done
snakemake --unlock --cores 1 "$@"
