#!/usr/bin/env bash
# What the SLURM scripts do, on this machine: flags go to python -m tl_distributed.train.
#   bash launch/local.sh --backbone=convnext_tiny                  one process, on all GPUs
#   WORKERS=4 bash launch/local.sh --backbone=convnext_tiny        four processes, which share the GPUs evenly
# Ctrl-C, SIGTERM, SIGHUP (a closed terminal) and SIGUSR1 reach all of them, which write a checkpoint; the same command
# goes on. After the loss of a process (exit code 75) the others are started again, at most MAX_RESTARTS times (0). PORT
# (12000) is the first of the WORKERS + 1 ports that are used. Other variables: VENV, PYTHON.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${VENV:-$repository/.venv} WORKERS=${WORKERS:-1} MAX_RESTARTS=${MAX_RESTARTS:-0} PORT=${PORT:-12000}
if [ -z "${PYTHON:-}" ]; then
  if [ -x "$VENV/bin/python" ]; then PYTHON=$VENV/bin/python; else PYTHON=python3; fi
fi
case $WORKERS in
  '' | *[!0-9]* | 0) echo "error: WORKERS=$WORKERS is not a number of processes" >&2 && exit 2 ;;
esac
export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}

gpus=()
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
  case ${gpus[0]} in -1 | NoDevFiles) gpus=() ;; esac # by which they are hidden
elif [ -z "${CUDA_VISIBLE_DEVICES+set}" ] && command -v nvidia-smi >/dev/null; then
  # Of its numbers alone: on standard output it also says that there are no devices, or no driver.
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -xE '[0-9]+' || true)
fi
if [ $((${#gpus[@]} % WORKERS)) -ne 0 ]; then
  echo "error: ${#gpus[@]} GPUs cannot be shared evenly by WORKERS=$WORKERS" >&2
  exit 2
fi

addresses=''
for ((index = 0; index < WORKERS; index++)); do addresses+=,127.0.0.1:$((PORT + 1 + index)); done

processes=() stopped=''
pass_on() { # SIGNAL
  stopped=$1
  for process in "${processes[@]+"${processes[@]}"}"; do kill -s "$1" "$process" 2>/dev/null || true; done
}
trap 'pass_on TERM' INT TERM # a process in the background ignores SIGINT
trap 'pass_on USR1' USR1
trap 'pass_on HUP' HUP # bash leaves it ignored where nohup had it so

start() { # INDEX FLAGS...
  local index=$1 share=$((${#gpus[@]} / WORKERS)) cluster=()
  shift
  if [ "$WORKERS" -gt 1 ]; then
    cluster=(--strategy=multi_worker --workers="${addresses#,}" --worker_index="$index")
    if [ "$share" -gt 0 ]; then
      export CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:index * share:share}")
    fi
  fi
  # In a session of its own: the Ctrl-C of a terminal would reach it a second time, and end it at once.
  exec setsid "$PYTHON" -m tl_distributed.train "$@" "${cluster[@]+"${cluster[@]}"}"
}

for ((restart = 0; ; restart++)); do
  processes=()
  for ((index = 0; index < WORKERS; index++)); do
    start "$index" "$@" &
    processes+=($!)
  done
  if [ -n "$stopped" ]; then pass_on "$stopped"; fi
  highest=0 lost=0
  for process in "${processes[@]}"; do
    while kill -0 "$process" 2>/dev/null; do wait "$process" || true; done
    code=0
    wait "$process" || code=$?
    if [ "$code" -eq 75 ]; then lost=1; elif [ "$code" -gt "$highest" ]; then highest=$code; fi
  done
  # The process that is lost has a code of its own, that of a kill, say.
  if [ "$lost" -eq 1 ]; then highest=75; fi
  if [ "$highest" -ne 75 ] || [ -n "$stopped" ] || [ "$restart" -ge "$MAX_RESTARTS" ]; then exit "$highest"; fi
  echo "A process was lost: start $((restart + 1)) of $MAX_RESTARTS"
done
