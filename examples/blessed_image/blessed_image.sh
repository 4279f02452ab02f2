#!/usr/bin/env bash
# blessed_image.sh: the two stages of the Dockerfile beside it, in plain folders. Stage one compiles and checks kernels on a
# machine without a GPU; stage two serves them from a read-only folder without compiler, toolkit or HOME, with jit = off.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)

phasec=$root/build/phasec
layers=$root/examples/layers/tiny_mlp_only.phase
targets=sm_90a
sets=()
packers=()
only=
out=

usage() {
  cat <<TEXT
usage: blessed_image.sh [--phasec BINARY] [--layers "FILE..."] [--targets A,B] [--set knob=v1,v2] [--exact] [--packers] [--bless-only] FOLDER
Makes FOLDER/blessed (stage one) and FOLDER/image (stage two); with --bless-only FOLDER is what stage one makes.
TEXT
}

while [ $# -gt 0 ]; do
  case $1 in
    --phasec) phasec=$2; shift 2 ;;
    --layers) layers=$2; shift 2 ;;
    --targets) targets=$2; shift 2 ;;
    --set) sets+=(--set "$2"); shift 2 ;;
    --exact) sets+=(--exact); shift ;;
    --packers) packers=(--packers); shift ;;
    --bless-only) only=1; shift ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) out=$1; shift ;;
  esac
done
[ -n "$out" ] || { usage >&2; exit 2; }

# --- Stage one: bless, and prove that what was asked for is there ----------------------------------------------------
bless() {
  local folder=$1
  mkdir -p "$folder/layers"
  # shellcheck disable=SC2086 # several files
  cp $layers "$folder/layers/"
  (cd "$folder" && "$phasec" bless layers/*.phase --target "$targets" ${sets[@]+"${sets[@]}"} ${packers[@]+"${packers[@]}"} --out blessed.db --record ship.manifest)
  "$phasec" bless --check "$folder/ship.manifest" ${packers[@]+"${packers[@]}"} "$folder/blessed.db"
  "$phasec" cache verify "$folder/blessed.db"
}

phasec=$(cd "$(dirname "$phasec")" && pwd -P)/$(basename "$phasec")
if [ -n "$only" ]; then
  bless "$out"
  exit 0
fi
mkdir -p "$out"
bless "$out/blessed"

# --- Stage two: the binary and the blessed folder, nothing to write to -----------------------------------------------
image=$out/image
rm -rf "$image"
mkdir -p "$image/bin"
cp "$phasec" "$image/bin/phasec"
cp -R "$out/blessed" "$image/blessed"
chmod -R a-w "$image"
trap 'chmod -R u+w "$image"' EXIT

# What the image's process sees: no HOME, no cache directory, a libnvrtc that does not exist, and no compiling.
serve() {
  env -i PATH=/nonexistent PHASEC_JIT=off PHASEC_NVRTC=/nonexistent/libnvrtc.so \
    PHASEC_BLESSED="$image/blessed/blessed.db" "$image/bin/phasec" "$@"
}

# Every line of the manifest must be a hit there.
while read -r layer words; do
  case $layer in '' | '#'*) continue ;; esac
  flags=()
  for word in $words; do
    case $word in
      target=*) flags+=(--target "${word#target=}") ;;
      ir=* | key=*) ;;
      *) flags+=(--set "$word") ;;
    esac
  done
  serve explain "$image/blessed/$layer" --device none "${flags[@]}"
done <"$image/blessed/ship.manifest"
serve bless --check "$image/blessed/ship.manifest" "$image/blessed/blessed.db"
