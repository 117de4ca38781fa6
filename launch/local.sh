#!/usr/bin/env bash
# Trains on virtual CPU devices of this machine, to try a mesh before renting one: on N of them, or in P processes of N
# each, as on P hosts. TERM, to this script or to a process, has all of them save and leave with 75; if a process ends
# with an error, so do the others, and the script with its code.
#   launch/local.sh 8 --config=experiments/lenet5_fashion.py --workdir=runs/mesh --config.mesh.fsdp=2
#   launch/local.sh 2x4 --config=experiments/lenet5_fashion.py --workdir=runs/hosts --config.mesh.fsdp=2
# 1x8, 2x4 and 4x2 end with the same bits: all add by gloo, and in as many threads. A process by itself, 8, adds in
# another order.
set -euo pipefail
layout=${1:?usage: launch/local.sh DEVICES|PROCESSESxDEVICES --config=... --workdir=...}
shift
devices=${layout#*x}
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
[ "$layout" = "$devices" ] && exec deepmodels train "$@"

processes=${layout%x*}
export NPROC="${NPROC:-$((processes * devices))}" # which XLA takes for the processors that a process has
port=${PORT:-$((20000 + RANDOM % 20000))}
pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM # which has them save
for ((i = 0; i < processes; i++)); do
  deepmodels train --coordinator "127.0.0.1:$port" --num-processes "$processes" --process-id "$i" "$@" &
  pids+=($!)
done
code=0
running=$(seq 0 $((processes - 1)))
while [ -n "$running" ]; do
  sleep 0.2 &
  wait $! || true # a signal ends it sooner
  left=
  for i in $running; do
    if kill -0 "${pids[i]}" 2>/dev/null; then
      left="$left $i"
      continue
    fi
    rc=0
    wait "${pids[i]}" || rc=$?
    [ "$code" = 0 ] && code=$rc || continue
    [ "$rc" != 0 ] && [ "$rc" != 75 ] || continue
    why="with code $rc"
    [ "$rc" -le 128 ] || why="by signal $((rc - 128)), $(kill -l $((rc - 128)))"
    echo "error: process $i has ended $why: so do the others" >&2
    kill -9 "${pids[@]}" 2>/dev/null || true
  done
  running=$left
done
exit "$code"
