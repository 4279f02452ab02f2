#!/usr/bin/env bash
#SBATCH --job-name=phasec-bless
#SBATCH --array=1-4
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
# slurm_bless.sh: blesses a manifest with as many machines as the array has tasks; no task needs a GPU. Submit it, then merge:
#   job=$(sbatch --parsable slurm_bless.sh ship.manifest shards)
#   sbatch --dependency=afterok:$job --array=0 slurm_bless.sh --merge shards blessed.db
set -euo pipefail
phasec=${BINARY:-phasec}

if [ "${1:-}" = --merge ]; then
  exec "$phasec" cache merge "$2"/shard-*.db --out "$3"
fi
[ $# -eq 2 ] || { echo "usage: slurm_bless.sh MANIFEST FOLDER | --merge FOLDER DB" >&2; exit 2; }
mkdir -p "$2"
exec "$phasec" bless "$1" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" -j "${SLURM_CPUS_PER_TASK:-1}" \
  --out "$2/shard-$SLURM_ARRAY_TASK_ID.db"
