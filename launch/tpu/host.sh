#!/usr/bin/env bash
# What vm.sh and pod.sh run on every host of a TPU, in its home directory:
#
#   rfm/launch/tpu/host.sh setup [BUCKET]   install; mount the bucket at ~/runs
#   rfm/launch/tpu/host.sh run rfm run ...  run the command, alone on its chips
set -euo pipefail
cd

mount_bucket() {
  mountpoint --quiet runs && return
  local key=/usr/share/keyrings/cloud.google.asc repository
  repository="gcsfuse-$(lsb_release --codename --short)"
  curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] https://packages.cloud.google.com/apt $repository main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get -qq update
  sudo apt-get -qq install --yes gcsfuse
  mkdir -p runs
  gcsfuse --implicit-dirs "$1" runs
}

case ${1:-} in
  setup)
    # The TPU images bring Python 3.10; rfm needs 3.11, which uv fetches.
    python3 -m pip install --quiet --user uv
    .local/bin/uv venv --quiet --allow-existing --python 3.11 venv
    .local/bin/uv pip install --quiet --python venv/bin/python './rfm[tpu,prepare]'
    venv/bin/rfm data prepare cifar10
    if [[ ${2:-} ]]; then mount_bucket "$2"; fi
    ;;
  run)
    # A unit of systemd is there once at most: what a lost connection left behind is stopped
    # (SIGTERM: it saves) before the chips are asked for again. The shell in between makes a
    # status of a death by a signal, which systemd-run would call 1.
    sudo systemctl stop rfm.service 2>/dev/null || true
    # shellcheck disable=SC2016 # for the inner shell
    exec sudo systemd-run --unit=rfm --collect --wait --pipe --uid="$(id -un)" \
      --working-directory="$PWD" --setenv=PATH="$PWD/venv/bin:$PATH" \
      bash -c 'trap : TERM; "$@" || exit $?' rfm "${@:2}"
    ;;
  *)
    echo "usage: host.sh setup [BUCKET] | host.sh run COMMAND" >&2
    exit 2
    ;;
esac
