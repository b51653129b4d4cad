#!/usr/bin/env bash
# A run on a TPU slice of any number of hosts, spot by default, until it is done. From the
# repository's root, on a machine that stays up:
#
#   BUCKET=my-runs launch/tpu/pod.sh rfm run --config cifar10:at --workdir runs/at
#
# Queues for the slice, sends what is committed (git archive HEAD) to all hosts, and runs the
# command on all of them; rfm finds the other hosts by itself. A preempted slice is deleted and
# queued for again: nothing on its disks survives, so ~/runs is a bucket. It needs a hierarchical
# namespace, where renaming a folder, by which a checkpoint becomes valid, is atomic:
#
#   gcloud storage buckets create gs://my-runs --location=europe-west4 \
#     --uniform-bucket-level-access --enable-hierarchical-namespace
#
# Stop (it saves), and give the slice back:
#
#   gcloud compute tpus tpu-vm ssh rfm --zone=$ZONE --worker=all --command='sudo systemctl stop rfm'
#   gcloud compute tpus queued-resources delete rfm --zone=$ZONE --force
set -euo pipefail

NAME=${NAME:-rfm}
ZONE=${ZONE:-europe-west4-b}
TYPE=${TYPE:-v5litepod-16}
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite}
BUCKET=${BUCKET:?name a bucket with a hierarchical namespace, without gs://}
CAPACITY=${CAPACITY---spot} # or --reserved, or empty: on demand
RESTARTS=${RESTARTS:-100}
PAUSE=${PAUSE:-60} # seconds

(($#)) || { echo "usage: BUCKET=NAME launch/tpu/pod.sh rfm run ..." >&2; exit 2; }

queue() { gcloud compute tpus queued-resources "$1" "$NAME" --zone="$ZONE" "${@:2}"; }
state() { queue describe --format='value(state.state)' 2>/dev/null || true; }
on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

obtain() {
  local found
  while found=$(state) && [[ $found != ACTIVE ]]; do
    case $found in
      SUSPENDED | FAILED) queue delete --force --quiet ;; # preempted, or never came up
      "") queue create --node-id="$NAME" --accelerator-type="$TYPE" \
        --runtime-version="$RUNTIME" ${CAPACITY:+"$CAPACITY"} ;;
    esac
    sleep "$PAUSE"
  done
}

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git archive --format=tar --prefix=rfm/ --output="$archive" HEAD

for ((attempt = 0; attempt <= RESTARTS; attempt++)); do
  obtain
  status=0
  { gcloud compute tpus tpu-vm scp "$archive" "$NAME:rfm.tar" --zone="$ZONE" --worker=all &&
    on_all_hosts "rm -rf rfm && tar xf rfm.tar && rfm/launch/tpu/host.sh setup $BUCKET"; } ||
    status=75
  if ((!status)); then
    on_all_hosts "rfm/launch/tpu/host.sh run$(printf ' %q' "$@")" || status=$?
  fi
  ((status)) || exit 0
  # gcloud, too, fails with 1 when the slice goes, and it takes a while until that is known.
  sleep "$PAUSE"
  if ((status <= 2)) && [[ $(state) == ACTIVE ]]; then exit "$status"; fi
  echo "pod.sh: status $status, starting again" >&2
done
echo "pod.sh: status $status, and no more restarts" >&2
exit "$status"
