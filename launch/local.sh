#!/usr/bin/env bash
# Trains on virtual CPU devices of this machine, to try a mesh before renting one: on N of them, or in P processes of N
# each, as on P hosts. If a process ends with an error, so do the others.
#   launch/local.sh 8 --config=experiments/lenet5_fashion.py --workdir=runs/mesh --config.mesh.fsdp=2
#   launch/local.sh 2x4 --config=experiments/lenet5_fashion.py --workdir=runs/hosts --config.mesh.fsdp=2
set -euo pipefail
layout=${1:?usage: launch/local.sh DEVICES|PROCESSESxDEVICES --config=... --workdir=...}
shift
devices=${layout#*x}
processes=1
[ "$layout" = "$devices" ] || processes=${layout%x*}
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
[ "$processes" = 1 ] && exec deepmodels train "$@"

port=${PORT:-$((20000 + RANDOM % 20000))}
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' TERM INT # which has them save
for ((i = 0; i < processes; i++)); do
  deepmodels train --coordinator "127.0.0.1:$port" --num-processes "$processes" --process-id "$i" "$@" &
  pids+=($!)
done
code=0
for ((i = 0; i < processes; i++)); do
  wait -n || { rc=$?; [ "$code" != 0 ] || code=$rc; [ "$code" = 75 ] || kill -9 "${pids[@]}" 2>/dev/null || true; }
done
exit "$code"
