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

# show COMMAND...: echoes the command and at most $lines_max lines of what it prints; fails as it fails.
show() {
  local log status=0 lines
  log=$build/quickstart.log
  printf '\n$ %s\n' "$*"
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

# step TITLE COMMAND...: a heading and a command that must succeed.
step() {
  printf '\n== %s\n' "$1"
  shift
  show "$@" || die $? "That should have worked: $*"
}

# step_fails STATUS TITLE COMMAND...: a command whose point is to be refused with that exit status.
step_fails() {
  local expected=$1 status=0
  printf '\n== %s\n' "$2"
  shift 2
  show "$@" || status=$?
  printf '(exit status %d)\n' "$status"
  [ "$status" -eq "$expected" ] || die 1 "That should have ended with exit status $expected: $*"
}

setup_packages
setup_nvrtc
setup_build
cd "$root"
phasec=build/phasec

step "What phasec is" "$phasec" --help
step "A real decode layer, checked" "$phasec" check examples/layers/qwen35_27b.phase
