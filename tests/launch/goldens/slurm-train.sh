mkdir -p /home/ada/mae-jax-logs /share/runs/vitl8
sbatch <<'END_OF_DOCUMENT'
#!/usr/bin/env bash
#SBATCH --job-name=vitl8
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=/home/ada/mae-jax-logs/vitl8-0.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@180
#SBATCH --dependency=singleton
#SBATCH --partition=gpu
#SBATCH --account=cells
#SBATCH --mem=0

export NCCL_DEBUG=WARN
source /home/ada/mae_jax/.venv/bin/activate
step=(--kill-on-bad-exit=1 --label --cpus-per-task=8)
command=(
  mae-jax train
  --config configs/demo.py
  --config.data.index=/share/index.parquet
  --workdir /share/runs/vitl8
  --distributed
)
finished=/share/runs/vitl8/model
max_restarts=50

# Body of a SLURM job: runs the command, and requeues the job until the run is finished.
# launch/slurm.py writes the header above it, which sets
#   step           options of srun
#   command        the command of srun, which forwards SIGTERM, so that the run can save its state
#   finished       path that exists once the run is finished; empty if status 0 alone shows it
#   max_restarts   requeues of the job, at most
set -uo pipefail

# scancel signals this shell too: it ends after its processes, without a requeue. The signal before
# the time limit (--signal) goes to the processes alone.
trap 'exit 143' TERM

srun "${step[@]}" "${command[@]}"
status=$?

if [[ $status == 0 && (-z $finished || -e $finished) ]]; then
  echo "launch: finished"
  exit 0
fi
if [[ $status == 2 || $status == 130 ]]; then
  echo "launch: wrong input (2) or interrupted (130): status $status; not restarted" >&2
  exit "$status"
fi
if ((${SLURM_RESTART_COUNT:-0} >= max_restarts)); then
  echo "launch: not finished after $max_restarts restarts; not restarted" >&2
  exit $((status ? status : 75))
fi
echo "launch: not finished (status $status); requeued"
scontrol requeue "$SLURM_JOB_ID"
END_OF_DOCUMENT
