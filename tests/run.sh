#!/usr/bin/env bash
# run.sh: sets this machine up (packages, NVRTC, build) and runs every test that it can run. Ends with CTest's summary.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
exec </dev/null

usage() {
  cat <<'TEXT'
usage: tests/run.sh [--all] [--sanitize] [--build DIR] [-- CTEST ARGUMENT...]
  --all        also the slow tests (whole products instead of samples; an hour on two cores)
  --sanitize   builds into build-sanitize/ with AddressSanitizer and UBSan, and runs there
  --build DIR  builds into DIR instead of build/
  --           the rest goes to ctest, for example: -- -L unit -R plan
GPU tests run where libcuda loads, NVRTC tests where libnvrtc is found; others are listed by name as skipped.
Exit status: ctest's; 2 when packages are missing and this user cannot install them; 5 when the build fails.
TEXT
}

build=$root/build
all=no
sanitize=no
while [ $# -gt 0 ]; do
  case $1 in
    --all) all=yes ;;
    --sanitize) sanitize=yes build=$root/build-sanitize ;;
    --build)
      [ $# -ge 2 ] || { usage >&2; exit 2; }
      build=$(realpath -m "$2")
      shift
      ;;
    --help | -h) usage; exit 0 ;;
    --) shift; break ;;
    *) printf 'unknown argument: %s\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

# shellcheck source=tests/setup.sh
. "$root/tests/setup.sh"

# A user's settings must not decide what the tests see; where libraries lie is the machine's business.
for name in $(compgen -e PHASEC_ || true); do
  case $name in PHASEC_NVRTC | PHASEC_CUDA) ;; *) unset "$name" ;; esac
done

setup_packages
setup_nvrtc
arguments=(-DPHASEC_TESTS=ON)
if [ "$sanitize" = yes ]; then
  arguments+=(-DPHASEC_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1)
fi
setup_build "${arguments[@]}"

# gpu_problem: prints why libcuda cannot be used, in the loader's words; nothing when it can.
gpu_problem() {
  python3 - "${PHASEC_CUDA:-libcuda.so.1}" <<'PY'
import ctypes, sys
try:
    cuda = ctypes.CDLL(sys.argv[1])
except OSError as error:
    print(error)
    sys.exit()
count = ctypes.c_int()
status = cuda.cuInit(0)
if status != 0:
    print(f"cuInit failed with CUDA error {status}")
elif cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
    print("the driver reports no device")
PY
}

# leave_out LABEL REASON: the tests of a label will not run; says which.
excluded=()
leave_out() {
  local names
  names=$(ctest --test-dir "$build" -N -L "^$1\$" | sed -n 's/^ *Test *#[0-9]*: //p' | paste -sd' ')
  excluded+=("^$1\$")
  if [ -n "$names" ]; then say "skipped, $2: $names"; fi
}

problem=$(gpu_problem)
if [ -n "$problem" ]; then leave_out gpu "no GPU ($problem)"; fi
if [ -z "$nvrtc" ]; then leave_out nvrtc "no NVRTC"; fi
if [ "$all" = no ]; then leave_out slow "left to --all"; fi
if [ ${#excluded[@]} -gt 0 ]; then
  set -- -LE "$(IFS='|'; printf '%s' "${excluded[*]}")" "$@"
fi

exec ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$(nproc)" "$@"
