# setup.sh: what ./examples/quickstart.sh and ./tests/run.sh share: packages, NVRTC, configure and build.
# Sourced, never run. The caller has set `root` (the repository) and `build` (the build directory).
# shellcheck shell=bash

# The one list of packages: CMakeLists.txt reads this line for its error message.
apt_packages="build-essential cmake ninja-build ccache pkg-config llvm-dev libsqlite3-dev libxxhash-dev doctest-dev zlib1g-dev libzstd-dev libtinfo-dev python3 python3-venv"
cxx=${CXX:-c++}

say() { printf '== %s\n' "$*"; }
die() { # die STATUS TEXT...
  local status=$1
  shift
  printf '%s\n' "$@" >&2
  exit "$status"
}

# Probes ask for the thing itself, not for a package's name: llvm-16-dev is as good as llvm-dev, and so is a system
# without dpkg.
have_command() { command -v "$1" >/dev/null 2>&1; }
have_header() { printf '#include <%s>\n' "$1" | "$cxx" -x c++ -E - >/dev/null 2>&1; }
have_library() { printf 'int main() {}\n' | "$cxx" -x c++ - "-l$1" -o /dev/null >/dev/null 2>&1; }
have_venv() { python3 -c 'import ensurepip, venv' >/dev/null 2>&1; }
have_llvm() {
  [ -n "${LLVM_DIR:-}" ] || compgen -G '/usr/lib/llvm-*/lib/cmake/llvm/LLVMConfig.cmake' >/dev/null ||
    compgen -G '/usr/local/lib/cmake/llvm/LLVMConfig.cmake' >/dev/null
}

# Prints the packages of $apt_packages that this machine lacks.
missing_packages() {
  if ! have_command "$cxx"; then # without a compiler nothing else can be probed; apt skips what is installed
    printf '%s\n' "$apt_packages"
    return
  fi
  local missing=() package
  for package in $apt_packages; do
    case $package in
      build-essential) have_library m && have_header cstdio ;;
      cmake) have_command cmake ;;
      ninja-build) have_command ninja || have_command make ;;
      ccache) true ;; # faster when present, never needed
      pkg-config) have_command pkg-config ;;
      llvm-dev) have_llvm ;;
      libsqlite3-dev) have_header sqlite3.h && have_library sqlite3 ;;
      libxxhash-dev) have_header xxhash.h && have_library xxhash ;;
      doctest-dev) have_header doctest/doctest.h ;;
      zlib1g-dev) have_header zlib.h && have_library z ;;
      libzstd-dev) have_header zstd.h && have_library zstd ;;
      libtinfo-dev) have_library tinfo ;;
      python3) have_command python3 ;;
      python3-venv) have_venv ;;
      *) false ;;
    esac || missing+=("$package")
  done
  printf '%s\n' "${missing[*]}"
}

# Installs what is missing, as root or through sudo; otherwise prints the command and exits 2.
setup_packages() {
  local missing as_root=()
  missing=$(missing_packages)
  if [ -z "$missing" ]; then
    say "packages: all present"
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    # Without a terminal sudo cannot ask for a password, and must not hang on it.
    if have_command sudo && { sudo -n true 2>/dev/null || [ -t 2 ]; }; then
      as_root=(sudo)
    else
      die 2 "These packages are missing and only root can install them: $missing" \
        "Run this, then the same command again:" "  sudo apt-get install -y $apt_packages"
    fi
  fi
  if ! have_command apt-get; then
    die 2 "These are missing, and this system has no apt-get to install them (names are Debian's): $missing"
  fi
  say "packages: installing $missing"
  "${as_root[@]}" apt-get update -q >/dev/null || say "apt-get update failed; going on with the lists that are here"
  # shellcheck disable=SC2086 # a list of words
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >"$(setup_log)" 2>&1 ||
    die 2 "apt-get install failed:" "$(tail -n 15 "$(setup_log)")" "By hand:" "  sudo apt-get install -y $apt_packages"
  missing=$(missing_packages)
  [ -z "$missing" ] || die 2 "Installed, and still not found: $missing" "By hand:" "  sudo apt-get install -y $apt_packages"
}

setup_log() {
  mkdir -p "$build"
  printf '%s\n' "$build/setup.log"
}

# nvrtc_version LIBRARY: prints "13.0", fails when it cannot be loaded or is older than 12.8 (no sm_100a family, no sm_121a).
nvrtc_version() {
  python3 - "$1" 2>/dev/null <<'PY'
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
major, minor = ctypes.c_int(), ctypes.c_int()
if library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) != 0 or (major.value, minor.value) < (12, 8):
    sys.exit(1)
print(f"{major.value}.{minor.value}")
PY
}

# Finds NVRTC: PHASEC_NVRTC, the CUDA toolkit, the loader's path, the wheel (installed below the build directory).
# Exports PHASEC_NVRTC when found; sets nvrtc to "path (version)" or to the empty string.
setup_nvrtc() {
  local candidate version
  nvrtc=""
  if [ -n "${PHASEC_NVRTC:-}" ]; then # the user's word is final, also when it names nothing
    version=$(nvrtc_version "$PHASEC_NVRTC") && nvrtc="$PHASEC_NVRTC ($version)"
    [ -n "$nvrtc" ] || say "NVRTC: PHASEC_NVRTC=$PHASEC_NVRTC cannot be loaded or is older than 12.8"
  else
    nvrtc_installed || nvrtc_from_wheel || true
  fi
  if [ -n "$nvrtc" ]; then
    say "NVRTC: $nvrtc"
  else
    say "NVRTC: none; what needs it is skipped by name. To have it: the CUDA toolkit 12.8 or later, or pip's nvidia-cuda-nvrtc"
  fi
}

nvrtc_use() { # LIBRARY: takes it if it is usable
  local version
  [ -e "$1" ] || return 1
  version=$(nvrtc_version "$1") || return 1
  nvrtc="$1 ($version)"
  export PHASEC_NVRTC="$1"
}

nvrtc_installed() {
  local directory candidate
  for directory in ${CUDA_HOME:+"$CUDA_HOME"} ${CUDA_PATH:+"$CUDA_PATH"} /usr/local/cuda /usr/local/cuda-* /opt/cuda; do
    for candidate in "$directory"/lib64/libnvrtc.so* "$directory"/lib/libnvrtc.so* "$directory"/targets/*/lib/libnvrtc.so*; do
      nvrtc_use "$candidate" && return 0
    done
  done
  for candidate in $(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | sed -n 's/.*libnvrtc\.so[.0-9]* .*=> //p'); do
    nvrtc_use "$candidate" && return 0
  done
  return 1
}

nvrtc_from_wheel() {
  local venv=$build/nvrtc-venv candidate
  if ! compgen -G "$venv/lib/python3*/site-packages/nvidia/*/lib/libnvrtc.so*" >/dev/null; then
    say "NVRTC: no CUDA toolkit 12.8 or later; installing the wheel nvidia-cuda-nvrtc into $venv"
    { python3 -m venv "$venv" &&
      "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --retries 1 \
        'nvidia-cuda-nvrtc>=13.0,<14'; } >"$(setup_log)" 2>&1 || {
      tail -n 2 "$(setup_log)"
      return 1
    }
  fi
  for candidate in "$venv"/lib/python3*/site-packages/nvidia/*/lib/libnvrtc.so*; do
    nvrtc_use "$candidate" && return 0
  done
  return 1
}

# setup_build [cmake argument...]: configures when needed and builds. Quiet when nothing changes.
setup_build() {
  local generator=() cached
  cached=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$build/CMakeCache.txt" 2>/dev/null || true)
  if [ "$cached" != "$root" ]; then # never configured, or a copy of somebody else's directory
    rm -rf "$build/CMakeCache.txt" "$build/CMakeFiles"
    if have_command ninja; then generator=(-G Ninja); fi
  fi
  local log
  log=$(setup_log)
  cmake -S "$root" -B "$build" "${generator[@]}" "$@" >"$log" 2>&1 || die 5 "$(tail -n 40 "$log")" "Configuring failed; the whole log: $log"
  sed -n '/^-- phasec /,/^-- *$/s/^-- //p' "$log"
  say "building in $build"
  cmake --build "$build" --parallel "$(nproc)" >"$log" 2>&1 || die 5 "$(tail -n 60 "$log")" "The build failed; the whole log: $log"
}
