#!/usr/bin/env bash
# shellcheck disable=SC2154
# The body of a SLURM job: runs the command, and puts the job back in the queue until the run is
# finished. launch/slurm.py writes the header above it, which sets
#   step           options of srun
#   command        what srun runs: srun itself hands SIGTERM on, so that the run can save
#   finished       a path that is there once the run is finished; empty if status 0 alone says it
#   most_restarts  how often the job is requeued at most
set -uo pipefail

# scancel signals this shell too. It then ends here, once the processes have, and is not requeued;
# the signal before the time limit (--signal) goes to the processes alone.
trap 'exit 143' TERM

srun "${step[@]}" "${command[@]}"
status=$?

if [[ $status == 0 && (-z $finished || -e $finished) ]]; then
  echo "launch: finished"
  exit 0
fi
if [[ $status == 2 ]]; then
  echo "launch: wrong input, see above; not started again" >&2
  exit 2
fi
if ((${SLURM_RESTART_COUNT:-0} >= most_restarts)); then
  echo "launch: not finished after $most_restarts restarts; not started again" >&2
  exit $((status ? status : 75))
fi
echo "launch: not finished (status $status); requeued"
scontrol requeue "$SLURM_JOB_ID"
