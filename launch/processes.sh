#!/usr/bin/env bash
# Several processes of one job on this machine: the program of a cluster without the cluster.
#
#   launch/processes.sh 2 -- rfm run --config digits:at --workdir runs/two
#
# To try it out: one process with all GPUs (launch/local.sh) is no slower. Ends all when one
# fails, and returns the first failing status.
set -euo pipefail

if (($# < 3)) || ! [[ $1 =~ ^[1-9][0-9]*$ && $2 == -- ]]; then
  echo "usage: launch/processes.sh N -- rfm run ..." >&2
  exit 2
fi
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then
  echo "launch/processes.sh: needs bash 5.1 or later (wait -p), this is $BASH_VERSION" >&2
  exit 2
fi
processes=$1
shift 2
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
# Without GPUs each process would make a CPU device of every core: they share the cores instead.
if [[ ${XLA_FLAGS-} != *xla_force_host_platform_device_count* ]]; then
  devices=$(($(nproc) / processes))
  devices=--xla_force_host_platform_device_count=$((devices ? devices : 1))
  export XLA_FLAGS="${XLA_FLAGS:+$XLA_FLAGS }$devices"
fi

pids=()
stopping=
# From a terminal, SIGINT reaches the processes by itself, and a second one would end them unsaved.
trap 'stopping=1' INT
trap 'stopping=1; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM HUP

for ((i = 0; i < processes; i++)); do
  (
    # A GPU belongs to one process.
    if command -v nvidia-smi >/dev/null; then export CUDA_VISIBLE_DEVICES=$i; fi
    exec "$@" --coordinator "127.0.0.1:$port" --processes "$processes" --process "$i"
  ) > >(sed -u "s/^/[$i] /") 2>&1 &
  pids+=($!)
done

first=0
killer=
while ((${#pids[@]})); do
  status=0
  wait -n -p ended "${pids[@]}" || status=$?
  [[ ${ended-} ]] || continue # a signal to this script ended the wait
  for i in "${!pids[@]}"; do
    if [[ ${pids[i]} == "$ended" ]]; then unset "pids[i]"; fi
  done
  if ((status && !first)); then
    first=$status
    # Those that were asked to stop are saving; the others wait for what is gone.
    if [[ ! $stopping ]] && ((${#pids[@]})); then
      kill -TERM "${pids[@]}" 2>/dev/null || true
      { sleep "${GRACE:-30}" && kill -KILL "${pids[@]}"; } >/dev/null 2>&1 &
      killer=$!
    fi
  fi
done
if [[ $killer ]]; then kill "$killer" 2>/dev/null || true; fi
exit "$first"
