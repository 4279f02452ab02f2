#!/usr/bin/env bash
# quickstart.sh: from a bare machine to the main job: installs what is missing, builds into build/, then a short tour.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
build=$root/build
exec </dev/null

if [ $# -gt 0 ]; then
  printf 'usage: examples/quickstart.sh\nInstalls what is missing, builds into build/, runs a tour on the best device present.\n'
  case $1 in -h | --help) exit 0 ;; *) exit 2 ;; esac
fi

# shellcheck source=tests/setup.sh
. "$root/tests/setup.sh"

lines_max=12

# show WORDS COMMAND...: echoes WORDS and at most $lines_max lines of what the command prints; fails as it fails.
show() {
  local words=$1 log=$work/show.log status=0 lines
  shift
  printf '\n$ %s\n' "$words"
  "$@" >"$log" 2>&1 || status=$?
  lines=$(wc -l <"$log")
  if [ "$lines" -le "$lines_max" ]; then
    cat "$log"
  else
    head -n $((lines_max - 1)) "$log"
    printf '... (%d more lines)\n' $((lines - lines_max + 1))
  fi
  return "$status"
}

# step TITLE WORDS COMMAND...: a heading and a command that must succeed.
step() {
  printf '\n== %s' "$1"
  shift
  show "$@" || die $? "That should have worked: $1"
}

# step_fails STATUS TITLE WORDS COMMAND...: a command whose point is to be refused with that exit status.
step_fails() {
  local expected=$1 status=0
  printf '\n== %s' "$2"
  shift 2
  show "$@" || status=$?
  printf '(exit status %d)\n' "$status"
  [ "$status" -eq "$expected" ] || die 1 "That should have ended with exit status $expected: $1"
}

skip() { printf '\n== %s\nskipped: no NVRTC on this machine\n' "$1"; }

# runs NAME [argument...]: wo_harness at every split; results in $work/NAME.*.
runs() {
  local name=$1 split
  shift
  for split in 1 2 4 8; do
    "$phasec" run examples/layers/wo_harness.phase --exact --device "$device" --tokens 1 --set wo_split="$split" \
      --json --save "$work/$name.$split.bin" "$@" >"$work/$name.$split.json" 2>>"$work/talk.log" || {
      local status=$?
      cat "$work/$name.$split.json"
      tail -n 5 "$work/talk.log"
      return "$status"
    }
  done
  python3 - "$work/$name" <<'PY'
import array, json, sys
def values(split):
    with open(f"{sys.argv[1]}.{split}.bin", "rb") as file:
        return array.array("f", file.read())
first = values(1)
for split in (1, 2, 4, 8):
    run = json.load(open(f"{sys.argv[1]}.{split}.json"))
    if split == 1:
        sim = run["device"] == "sim"
        print("simulated, no GPU times" if sim else run["device_name"])
        print("split  active CTAs  max_abs  drift against split 1  launch us  cache  key")
    drift = max(abs(a - b) for a, b in zip(values(split), first))
    error = "-" if run["check"] is None else f'{run["check"]["max_abs"]:g}'
    time = "-" if sim else f'{run["time_us"]["launch_median"]:.1f}'
    print(f'{split:5}  {run["active_wo_ctas"]:11}  {error:>7}  {drift:21.3g}  {time:>9}  {run["cache"]["outcome"]:5}  {run["cache"]["key"]}')
PY
}

# resources LAYER: registers and spills for every target, two compiles at a time; kept in a cache of their own.
resources() {
  local target
  for target in sm_80 sm_86 sm_89 sm_90a sm_100a sm_103a sm_120a sm_121a; do echo "$target"; done |
    PHASEC_CACHE_DIR=$build/quickstart-targets xargs -P "$(nproc)" -n 1 sh -c \
      '"$0" inspect "$1" --exact --device none --target "$3" --json >"$2/$3.json" 2>>"$2/talk.log" || { tail -n 5 "$2/talk.log"; exit 255; }' \
      "$phasec" "$1" "$work" || return
  python3 - "$work" <<'PY'
import json, sys
print("target   registers  spill stores  spill loads  code bytes")
for target in "sm_80 sm_86 sm_89 sm_90a sm_100a sm_103a sm_120a sm_121a".split():
    for kernel in json.load(open(f"{sys.argv[1]}/{target}.json"))["resources"]["kernels"]:
        print(f'{target:8} {kernel["registers"]:9}  {kernel["spill_store_bytes"]:12}  {kernel["spill_load_bytes"]:11}  {kernel["code_bytes"]:10}')
PY
}

some_ptx() {
  PHASEC_CACHE_DIR=$build/quickstart-targets "$phasec" inspect examples/layers/qwen35_27b.phase --exact --device none --target sm_90a --ptx \
    >"$work/layer.ptx" 2>>"$work/talk.log" || return
  grep -m 6 -E 'cp\.async\.bulk|mbarrier|ld\.acquire|red\.release' "$work/layer.ptx"
}

explain_split() {
  "$phasec" run "$1" --exact --device "$device" --set wo_split=1 >/dev/null 2>>"$work/talk.log" || return
  "$phasec" explain "$1" --exact --device "$device" --set wo_split=8
}

refuse() {
  sed '/event grid/d' examples/layers/wo_harness.phase >"$work/no_event.phase"
  (cd "$work" && "$phasec" check no_event.phase)
}

setup_packages
setup_nvrtc
setup_build
cd "$root"
phasec=$build/phasec
work=$build/quickstart
rm -rf "$work" # the tour starts with an empty cache, so that it can show a miss
mkdir -p "$work"
export PHASEC_CACHE_DIR=$work/cache
for name in $(compgen -e PHASEC_ || true); do # a user's settings must not decide what the tour shows
  case $name in PHASEC_NVRTC | PHASEC_CUDA | PHASEC_CACHE_DIR) ;; *) unset "$name" ;; esac
done
device=auto # cuda when it is usable, else sim
[ -n "$nvrtc" ] || device=sim

step "(a) Into how many K splits per KV head should W_O be cut? 5120 x 6144 in NVFP4, checked bit for bit" \
  "for S in 1 2 4 8; do build/phasec run examples/layers/wo_harness.phase --exact --check --tokens 1 --set wo_split=\$S; done  # as a table" \
  runs first --check
step "(b) Once more: the kernels come from the cache" \
  "for S in 1 2 4 8; do build/phasec run examples/layers/wo_harness.phase --exact --tokens 1 --set wo_split=\$S; done  # as a table" \
  runs second
if [ -n "$nvrtc" ]; then
  step "(c) A whole layer of Qwen3.5-27B, compiled for every target without a GPU" \
    "for T in \$targets; do build/phasec inspect examples/layers/qwen35_27b.phase --exact --device none --target \$T; done  # as a table" \
    resources examples/layers/qwen35_27b.phase
  step "(d) A few lines of its PTX" \
    "build/phasec inspect examples/layers/qwen35_27b.phase --exact --device none --target sm_90a --ptx >layer.ptx; grep -m 6 -E 'cp.async.bulk|mbarrier|...' layer.ptx" some_ptx
else
  skip "(c) A whole layer of Qwen3.5-27B, compiled for every target without a GPU"
  skip "(d) A few lines of its PTX"
fi
step "(e) The cache has wo_split 1, and 8 is asked for: why is that a miss?" \
  "build/phasec explain examples/layers/tiny_qwen35_27b.phase --exact --set wo_split=8" \
  explain_split examples/layers/tiny_qwen35_27b.phase
step_fails 1 "(f) A layer that lacks an event is refused, with a witness" \
  "sed '/event grid/d' examples/layers/wo_harness.phase >no_event.phase; build/phasec check no_event.phase" refuse

cat <<'TEXT'

== What to try next
  build/phasec doctor                                                       what this machine can do, and every setting
  build/phasec run examples/layers/tiny_qwen35_27b.phase --exact --check    a whole layer, attention and all
  build/phasec render examples/layers/qwen35_27b.phase --exact --emit=plan  who computes what, and who waits for whom
  build/phasec cache ls                                                     your own kernels (the tour's are in build/quickstart)
  ./tests/run.sh                                                            every test that this machine can run
TEXT
