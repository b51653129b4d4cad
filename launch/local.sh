#!/usr/bin/env bash
# One command on this machine, started again when something took it down.
#
#   launch/local.sh rfm run --config cifar10:at --workdir runs/at
#
# One process uses all GPUs of the machine. Started again after status 75 (another process of
# the job was lost) and after a death by a signal (out of memory, a driver's fault), at most
# RESTARTS times (10). Not after 1 or 2, which would only come again, and not after SIGINT or
# SIGTERM, by which somebody asked it to stop: those are passed on, it saves, and that is all.
set -euo pipefail

(($#)) || { echo "usage: launch/local.sh rfm run ..." >&2; exit 2; }

stopping="" child=""
# From a terminal, SIGINT reaches the command by itself, and a second one would end it unsaved.
trap 'stopping=1' INT
trap 'stopping=1; kill -TERM "$child" 2>/dev/null || true' TERM HUP

for ((restarts = 0; ; restarts++)); do
  "$@" &
  child=$!
  # A signal ends `wait` early: wait until the command is gone.
  while status=0; wait "$child" || status=$?; kill -0 "$child" 2>/dev/null; do :; done
  if [[ $stopping ]] || ((status < 128 && status != 75 || status == 130 || status == 143)); then
    exit "$status"
  fi
  ((restarts < ${RESTARTS:-10})) || break
  echo "launch/local.sh: status $status, starting again" >&2
  sleep "${PAUSE:-10}"
  if [[ $stopping ]]; then exit "$status"; fi
done
echo "launch/local.sh: status $status, and no more restarts" >&2
exit "$status"
