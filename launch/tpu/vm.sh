#!/usr/bin/env bash
# A run on a TPU VM of one host that is not spot. From the repository's root:
#
#   launch/tpu/vm.sh rfm run --config cifar10:at --workdir runs/at
#
# Sends what is committed (git archive HEAD). The run's folder stays on the VM's disk, so the same
# command goes on. Get it, and then give the VM back:
#
#   gcloud compute tpus tpu-vm scp --recurse --zone=$ZONE rfm:runs .
#   gcloud compute tpus tpu-vm delete --zone=$ZONE rfm
set -euo pipefail

NAME=${NAME:-rfm}
ZONE=${ZONE:-europe-west4-b}
TYPE=${TYPE:-v5litepod-8}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}

(($#)) || { echo "usage: launch/tpu/vm.sh rfm run ..." >&2; exit 2; }

vm() { gcloud compute tpus tpu-vm "$1" "${@:2}" --zone="$ZONE"; }

if ! vm describe "$NAME" >/dev/null 2>&1; then
  vm create "$NAME" --accelerator-type="$TYPE" --version="$RUNTIME"
fi
archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git archive --format=tar --prefix=rfm/ --output="$archive" HEAD
vm scp "$archive" "$NAME:rfm.tar"
vm ssh "$NAME" --command="rm -rf rfm && tar xf rfm.tar && rfm/launch/tpu/host.sh setup"
vm ssh "$NAME" --command="rfm/launch/tpu/host.sh run$(printf ' %q' "$@")"
