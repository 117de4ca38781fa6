#!/usr/bin/env bash
# Trains on Cloud TPU virtual machines, which may be taken away: then it asks for others, and the run goes on.
#   NAME=pod ZONE=us-east5-a TYPE=v5p-32 launch/tpu_vm.sh run --config=experiments/resnet50_imagenet.py --workdir=/runs/resnet50
# A step by itself, for the same NAME and ZONE: create, install, train ARGUMENTS, follow, logs, delete.
#
# NAME, ZONE, TYPE   of the TPU; TYPE is its accelerator type
# RUNTIME            its system image: v2-alpha-tpuv5 by default, which is v5p's
# SPOT=1             takes one that is cheaper and can be taken away
# SETUP              a command for every host before the installation, to mount what --workdir is in, which all of them
#                    write: SETUP='sudo mkdir -p /runs && sudo mount 10.0.0.2:/runs /runs && sudo chmod a+w /runs'
# EXTRAS             of pyproject.toml beside tpu
# RESTARTS           of a run that ended with an error, 5 by default; those of a TPU that was taken away aren't counted
# PROJECT            gcloud's by default
# It installs what is committed (git archive HEAD). The TPU stays, and costs, until `delete`.
set -euo pipefail
action=${1:?usage: NAME=... ZONE=... TYPE=... launch/tpu_vm.sh create|install|train|follow|run|logs|delete [--config=... --workdir=...]}
shift
: "${NAME:?the name of the TPU}" "${ZONE:?its zone}"
where=(--zone "$ZONE" ${PROJECT:+--project "$PROJECT"})
wait_seconds=${WAIT_SECONDS:-60}
self=$(realpath "$0")
cd "$(dirname "$self")/.."

say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }

# The state of the request: ACTIVE once there is a TPU, SUSPENDED or FAILED once there is none; NONE if nobody asked.
state() {
  gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)' 2>/dev/null || echo NONE
}

create() {
  : "${TYPE:?its accelerator type, v5p-32 say}"
  gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id "$NAME" --accelerator-type "$TYPE" \
    --runtime-version "${RUNTIME:-v2-alpha-tpuv5}" ${SPOT:+--spot}
  local now
  until now=$(state) && [ "$now" = ACTIVE ]; do
    case $now in FAILED | SUSPENDED | SUSPENDING | NONE) say "there is no TPU: $now" && return 1 ;; esac
    say "$now"
    sleep "$wait_seconds"
  done
}

delete() { gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet; }

on() { # WORKERS COMMAND
  gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" --command="$2"
}

install() {
  local archive
  archive=$(mktemp -d)
  git archive --format=tar.gz --output="$archive/deepmodels.tar.gz" HEAD
  gcloud compute tpus tpu-vm scp "$archive/deepmodels.tar.gz" "$NAME:" "${where[@]}" --worker=all
  rm -r "$archive"
  [ -z "${SETUP:-}" ] || on all "$SETUP"
  on all "set -e; rm -rf deepmodels; mkdir deepmodels; tar xzf deepmodels.tar.gz -C deepmodels; cd deepmodels
    python3 -m venv .venv || { sudo apt-get update -q && sudo apt-get install -qy python3-venv && python3 -m venv .venv; }
    .venv/bin/pip install -q --no-cache-dir '.[tpu${EXTRAS:+,$EXTRAS}]'"
}

# The same command on every host, which find each other, and go on if this connection doesn't. The exit code is that of
# host 0, or 255 if the TPU is gone.
train() {
  local command
  command=$(printf ' %q' "$@")
  command="cd ~/deepmodels; .venv/bin/deepmodels train$command >>~/train.log 2>&1; echo \$? >~/exit_code"
  on all "rm -f ~/exit_code; setsid nohup bash -c $(printf %q "$command") >/dev/null 2>&1 </dev/null &"
  follow
}

follow() {
  local code
  while :; do
    sleep "$wait_seconds"
    code=$(on 0 'cat ~/exit_code' 2>/dev/null | tail -n 1) || code=
    if [[ $code =~ ^[0-9]+$ ]]; then return "$code"; fi
    [ "$(state)" = ACTIVE ] || return 255
  done
}

run() {
  local left=${RESTARTS:-5} installed='' code
  again() { # WHAT_FAILED CODE
    say "$1, $left restarts left"
    [ "$left" -gt 0 ] || exit "$2"
    left=$((left - 1))
    sleep "$wait_seconds"
  }
  while :; do
    case $(state) in
      ACTIVE) ;;
      NONE) "$self" create || again "no TPU was had" 1; continue ;;
      SUSPENDED | FAILED) say "the TPU is gone"; installed=; "$self" delete || again "it can't be deleted" 1; continue ;;
      *) sleep "$wait_seconds"; continue ;;
    esac
    code=0
    if [ -z "$installed" ] && on 0 "pgrep -f '[.]venv/bin/deepmodels train'" >/dev/null 2>&1; then
      say "a run is under way there"
      "$self" follow || code=$?
    else
      [ -n "$installed" ] || "$self" install || { again "the installation failed" 1; continue; }
      installed=1
      "$self" train "$@" || code=$?
    fi
    case $code in
      0) say "done: $0 delete gives the TPU back"; return 0 ;;
      75) say "the run was asked to leave, and saved" ;;
      77) say "the run diverged, and would again: $0 logs"; return 77 ;;
      *) [ "$(state)" != ACTIVE ] || again "exit code $code: $0 logs" "$code" ;;
    esac
  done
}

case $action in
  create | install | train | follow | run | delete) "$action" "$@" ;;
  logs) on 0 'tail -n 50 train.log' ;;
  *) echo "unknown action $action: create, install, train, follow, run, logs or delete" >&2; exit 2 ;;
esac
