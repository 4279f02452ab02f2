#!/usr/bin/env bash
# bench_all.sh: everything the targets ask for on this GPU, in one go and within a time limit. Results go to FOLDER, one report
# a run and all.json with all of them; the table is last on stdout. What time did not allow is named.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: tests/gpu/bench_all.sh FOLDER [SECONDS]   (default 460; PHASEC names the binary, default build/phasec)" >&2
  exit 2
fi
folder=$1
deadline=$((SECONDS + ${2:-460}))
phasec=${PHASEC:-$root/build/phasec}
mkdir -p "$folder"
if compgen -G "$folder/*.json" >/dev/null; then
  echo "$folder holds reports of another run; name an empty folder" >&2
  exit 2
fi
failed=0

# bench NAME SECONDS LAYER FLAG...: one run, at most so long; what it measured before a limit strikes is kept.
bench() {
  local name=$1 limit=$2 layer=$root/examples/layers/$3.phase left=$((deadline - SECONDS)) code=0
  shift 3
  if [ ! -f "$layer" ]; then
    echo "skip $name: ${layer#"$root"/} is not there" >&2
    return
  fi
  if [ "$left" -lt 10 ]; then
    echo "skip $name: no time left" >&2
    return
  fi
  [ "$left" -lt "$limit" ] && limit=$left
  timeout "$limit" "$phasec" bench "$layer" --device cuda -o "$folder/$name.json" "$@" >"$folder/$name.txt" || code=$?
  [ "$code" -eq 0 ] && return
  echo "$name: $([ "$code" -eq 124 ] && echo "cut off after $limit s" || echo "exit status $code")" >&2
  failed=1
}

# The most important first.
bench qwen35_27b 170 qwen35_27b --repeat 24 --tokens 1,2,4,8,16 --contexts 1024 --peers --peer-seconds 50
bench qwen35_27b_single 30 qwen35_27b --repeat 1
bench qwen35_27b_long 60 qwen35_27b --contexts 8192,32768,131072
bench llama31_8b 110 llama31_8b --tokens 1,8 --peers --peer-seconds 45
bench llama31_8b_fp8 30 llama31_8b_fp8 --tokens 1,8
bench llama32_1b_layer 100 llama32_1b_layer --tokens 1,8 --peers --peer-seconds 60
bench llama32_1b 40 llama32_1b --tokens 1,8 # a whole step, which no peer expresses
bench wo_split_seed 30 wo_harness --sweep wo_split=1,2,4,8 --set partition=seed
bench wo_split_wide 30 wo_harness --sweep wo_split=1,2,4,8 --set partition=wide
bench qwen35_27b_error 90 qwen35_27b --launches 15 --error 8
bench qwen35_27b_batches 240 qwen35_27b --tokens 2,4,8,16 --contexts 8192,32768,131072

python3 "$root/tests/bench/table.py" join "$folder" && python3 "$root/tests/bench/table.py" show "$folder/all.json" || failed=1
exit "$failed"
