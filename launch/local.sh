#!/usr/bin/env bash
# Trains on N virtual CPU devices of this machine, to try a mesh before renting one:
#   launch/local.sh 8 --config=experiments/lenet5_fashion.py --workdir=runs/mesh --config.mesh.fsdp=2
set -euo pipefail
devices=${1:?usage: launch/local.sh DEVICES --config=... --workdir=...}
shift
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
exec deepmodels train "$@"
