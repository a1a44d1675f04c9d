#!/bin/sh
# Judge a finished run in any CI, so that what CI sees is never an old success.
#
#   gate.sh RUN [OPTION of `edgekd gate`]...
#
# While it works, $EDGEKD_CHECK/state says in_progress; when it ends, success or failure, and $EDGEKD_CHECK/exit_code holds the
# exit code of edgekd. Killed in any way, edgekd or this script leave `failure` or `in_progress`, never `success`: whoever asks
# takes nothing but `success` for one.
#
#   EDGEKD_CHECK    where to write: state, exit_code, junit.xml, ... (default: edgekd-check)
#   EDGEKD_FORMATS  what to write there (default: terminal junit sarif comment annotations badge openmetrics)
#   EDGEKD_BUDGETS  the budgets file, its path from the root of the repository; judged by it, and annotations point into it
#   EDGEKD_NOTIFY   a program to call with in_progress, success or failure, for instance to set a commit's status
#   EDGEKD          the program itself (default: edgekd)
set -u

if [ "$#" -lt 1 ]; then
  echo "usage: gate.sh RUN [OPTION of edgekd gate]..." >&2
  exit 2
fi
run=$1
shift
check=${EDGEKD_CHECK:-edgekd-check}
formats=${EDGEKD_FORMATS:-terminal junit sarif comment annotations badge openmetrics}
edgekd=${EDGEKD:-edgekd}
child=
conclusion=failure

tell() {
  printf '%s\n' "$1" >"$check/.state.new" && mv -f "$check/.state.new" "$check/state"
  if [ -n "${EDGEKD_NOTIFY:-}" ]; then
    "$EDGEKD_NOTIFY" "$1" || echo "gate.sh: $EDGEKD_NOTIFY $1 failed" >&2
  fi
}

# shellcheck disable=SC2329 # the trap below calls it
close_check() {
  code=$?
  trap - EXIT HUP INT TERM
  tell "$conclusion"
  exit "$code"
}

# shellcheck disable=SC2329 # the traps below call it
stop() {
  trap '' HUP INT TERM
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null
    wait "$child" 2>/dev/null
  fi
  exit "$1"
}

rm -rf "$check" || exit 4
mkdir -p "$check" || exit 4
trap close_check EXIT
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM
tell in_progress

# What an earlier gate left must not be taken for this one's answer.
rm -f "$run/verdict.json" || exit 4

if [ -n "${EDGEKD_BUDGETS:-}" ]; then
  set -- --budgets "$EDGEKD_BUDGETS" "$@"
fi
"$edgekd" gate "$run" "$@" </dev/null &
child=$!
wait "$child"
code=$?
child=
printf '%s\n' "$code" >"$check/exit_code"

if [ -f "$run/verdict.json" ]; then
  # shellcheck disable=SC2086 # a list of words
  "$edgekd" render "$run" $formats --out "$check" --budgets "${EDGEKD_BUDGETS:-}" </dev/null >&2 || code=4
  cp "$run/report.json" "$run/verdict.json" "$check/" || code=4
elif [ "$code" -eq 0 ]; then
  echo "gate.sh: edgekd ended well and left no verdict" >&2
  code=4
fi
if [ "${GITHUB_ACTIONS:-}" = true ] && [ -f "$check/annotations.txt" ]; then
  cat "$check/annotations.txt"
fi
if [ "$code" -eq 0 ]; then
  conclusion=success
fi
exit "$code"
