# Sourced by the SLURM scripts beside it: runs the command in a step of the job, passes signals on to it, and puts the
# job back into the queue where the same command goes on. Needs `repository`; the scripts say what a user may set.

VENV=${VENV:-$repository/.venv}
if [ -z "${PYTHON:-}" ]; then
  if [ -x "$VENV/bin/python" ]; then PYTHON=$VENV/bin/python; else PYTHON=python3; fi
fi
MAX_REQUEUES=${MAX_REQUEUES:-100} # of one job: a machine that is broken must not loop for ever
STAGE=${STAGE:-auto}
python=(${container[@]+"${container[@]}"} "$PYTHON")

export PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
# Since SLURM 22.05 srun does not take this over from the job.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
unset SLURM_EXPORT_ENV # of sbatch --export: srun would keep PATH and PYTHONPATH from the tasks
# To SLURM's commands the number of an array's last task is that of the whole array.
job=$SLURM_JOB_ID
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi

step='' stopped=0
# srun passes SIGUSR1 on to the tasks; at a SIGTERM it would kill them. `wait` goes on after either.
stop() { # EXIT_CODE
  stopped=$1
  echo "Asked to stop: the run writes a checkpoint"
  if [ -n "$step" ]; then kill -USR1 "$step" 2>/dev/null || true; fi
}
trap 'stop 138' USR1
trap 'stop 143' TERM

describe_job() {
  local gpus=${SLURM_GPUS_ON_NODE:-"none (--gpus-per-node=N asks for them)"}
  echo "Job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restart ${SLURM_RESTART_COUNT:-0}; GPUs a node: $gpus; $PYTHON is" \
    "$("${python[@]}" --version 2>&1)"
}

# A wrong flag ends the job here, before any step.
data_dir_of() { # MODULE CLASS FLAGS...: prints the data set's folder
  "${python[@]}" -c '
import importlib, sys
from tl_distributed.settings.command import run_command
config_class = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
def main(config, _):
    getattr(config, "validate", lambda: None)()
    print(config.data_dir)
run_command(main, config_class, "", sys.argv[3:])' "$@"
}

run_step() { # DATA_DIR SRUN_OPTIONS... -- COMMAND...: runs it in a step, then ends the job or puts it back
  local data_dir=${1##*$'\n'} options=() code=0 # a module of the user's own may have printed lines before
  shift
  while [ "$1" != -- ]; do options+=("$1") && shift; done
  shift
  # A node that is taken whole (--exclusive) gives its GPUs to the job, but not to the job's steps.
  if [ -n "${SLURM_GPUS_ON_NODE:-}" ] && [ -z "${SLURM_GPUS_PER_TASK:-}" ]; then
    options+=(--gpus-per-node="$SLURM_GPUS_ON_NODE")
  fi
  if [ "$STAGE" = off ]; then data_dir=; fi
  if [ -n "$data_dir" ] && [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    # Before any task starts: they would not wait as long for one whose node is still copying.
    in_step --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
      bash "$repository/launch/slurm_task.sh" "$data_dir" || true
  fi
  in_step ${options[@]+"${options[@]}"} bash "$repository/launch/slurm_task.sh" "$data_dir" "$@" || code=$?
  end_job "$code"
}

in_step() { # SRUN_OPTIONS... COMMAND...: its exit code, that of the signal where one came before
  local code=0
  if [ "$stopped" -ne 0 ]; then return "$stopped"; fi
  # One task that ends must not have the others killed: they say why they end, and write what they have to.
  srun --kill-on-bad-exit=0 "$@" &
  step=$!
  if [ "$stopped" -ne 0 ]; then kill -USR1 "$step" 2>/dev/null || true; fi
  while kill -0 "$step" 2>/dev/null; do wait "$step" || true; done
  wait "$step" || code=$?
  step=
  return "$code"
}

end_job() { # EXIT_CODE
  local code=$1 restarts=${SLURM_RESTART_COUNT:-0} state
  case $code in
    75 | 138 | 143) ;; # a worker was lost; stopped by SIGUSR1, by SIGTERM
    *) exit "$code" ;;
  esac
  state=$(squeue --noheader --jobs="$job" --format=%T) || exit "$code"
  # Otherwise the job was cancelled, or SLURM itself puts it back, as after the loss of a node.
  if [ "$state" != RUNNING ]; then exit "$code"; fi
  if [ "$restarts" -ge "$MAX_REQUEUES" ]; then
    echo "error: exit code $code after $restarts restarts (MAX_REQUEUES); sbatch the same again to go on" >&2
    exit "$code"
  fi
  echo "Exit code $code: back into the queue"
  scontrol requeue "$job" || true
  exit "$code"
}
