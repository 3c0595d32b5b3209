#!/usr/bin/env bash
#SBATCH --job-name=peaksweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --open-mode=append
#
# A sweep on a Ray cluster of its own, inside a Slurm allocation:
#
#     sbatch --nodes=4 deploy/slurm.sh examples/embedded.yaml --out /shared/runs/embedded
#
# The words are those of `peaksweep run`. Submit with the environment active (sbatch hands on its
# PATH); the environment, the sweep file, the run folder and $HOME are to be seen by all nodes.
#
# Ray starts on every node and ends with this script. Its token is made for this job: a file that
# only you can read, whose path the nodes are told; it stands in no environment and no command line.
# Ray listens on all interfaces of the nodes (nothing but the token keeps other users of the
# cluster out) and has no dashboard. PEAKSWEEP_ADDRESS says which address of the first node
# to use where it has several and the first is not the one that the others reach.
#
# It ends as the sweep ends, with its exit code (README.md lists them).
#   time is nearly over  SIGUSR1, five minutes before: the sweep stops, the job is queued again
#   a node is lost       the sweep goes on with the others (--no-kill)
#   the first is lost    Slurm queues the job again (--requeue)
#   `scancel --batch --signal=TERM JOB`   the sweep stops in order; nothing is queued
#   `scancel JOB`        everything gets SIGTERM at once, and SIGKILL after KillWait
# Whichever it was: the same command goes on with the run folder.

set -uo pipefail

if [ $# -eq 0 ] || [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "usage: sbatch deploy/slurm.sh SPEC [options of peaksweep run]" >&2
    exit 2
fi

child='' came='' stopped='' again=''
steps=()
private=$(mktemp -d "$HOME/.peaksweep-ray-XXXXXXXX") || exit 4 # for nobody else, by mktemp

# shellcheck disable=SC2329 # called by traps
stop() { # pass on a signal: the sweep is told to end
    came=1 stopped=1
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}

attend() { # wait for a process's own end, whatever signals come meanwhile; return its exit code
    local status
    child=$1
    while came='' status=0; do
        wait "$child" || status=$?
        [ -n "$came" ] || break # else it was the signal that ended the waiting
    done
    child=''
    return "$status"
}

# shellcheck disable=SC2329
finish() { # end our own Ray, and nobody else's
    trap '' TERM INT USR1
    for step in "${steps[@]}"; do kill -TERM "$step" 2>/dev/null; done
    for _ in {1..200}; do # Ray takes up to half a minute for its last words
        [ -n "$(jobs -rp)" ] || break
        sleep 0.2
    done
    rm -rf "$private"
    # Not before Ray has ended: to be queued again ends the job.
    [ -z "$again" ] || scontrol requeue "$SLURM_JOB_ID"
}

trap finish EXIT
trap stop TERM INT
trap 'again=1; stop' USR1

unset RAY_ADDRESS RAY_AUTH_TOKEN
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$private/token" RAY_USAGE_STATS_ENABLED=0
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' \
    >"$RAY_AUTH_TOKEN_PATH") || exit 4

# What each node does. Its address is the one from which it reaches the first node; the folder is
# short, because paths of sockets are, and its own, because /tmp/ray may be another user's.
# shellcheck disable=SC2016 # for the nodes' shells
node='
set -eu
own=$(python -c "
import socket, sys
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect((sys.argv[1], 9))
print(probe.getsockname()[0])" "$1")
folder=/tmp/peaksweep-ray-$SLURM_JOB_ID
mkdir -m 700 "$folder" 2>/dev/null ||
    { [ ! -L "$folder" ] && [ -O "$folder" ] && chmod 700 "$folder"; } ||
    { echo "$folder is of another user; remove it" >&2; exit 4; }
shift
exec ray start --block --disable-usage-stats --node-ip-address="$own" --temp-dir="$folder" \
    --num-cpus="${SLURM_CPUS_ON_NODE:?}" "$@"
'

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=${PEAKSWEEP_ADDRESS:-$(hostname --all-ip-addresses | cut -d ' ' -f 1)}
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node do not meet
everything=(--mem=0 --cpu-bind=none --no-kill --kill-on-bad-exit=0)

srun --nodes=1 --ntasks=1 --nodelist="$first" "${everything[@]}" \
    bash -c "$node" node "$address" --head --port="$port" --include-dashboard=false &
steps+=($!)

if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) \
        --exclude="$first" "${everything[@]}" \
        bash -c "$node" node "$address" --address="$address:$port" &
    steps+=($!)
fi

# Nodes that come late are used all the same, so only the first is waited for without mercy.
python - "$address:$port" "$SLURM_JOB_NUM_NODES" <<'PYTHON' &
import logging
import sys
import time

import ray

address, wanted = sys.argv[1], int(sys.argv[2])
until = time.monotonic() + 300
while not ray.is_initialized():
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds, while it is starting
        if time.monotonic() > until:
            sys.exit(f"No Ray answers at {address} after 5 minutes: {error}")
        time.sleep(1)
while (there := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > until:
        print(f"{there} of {wanted} nodes are there after 5 minutes; the sweep begins with them.")
        break
    time.sleep(0.5)
PYTHON
attend $!
status=$?
[ -z "$stopped" ] || exit 143
[ "$status" -eq 0 ] || exit 3

peaksweep run "$@" --address "$address:$port" &
attend $!
status=$?
[ "$status" -ne 0 ] || again='' # it was done all the same: there is nothing to go on with
exit "$status"
