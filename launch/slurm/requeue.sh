#!/usr/bin/env bash
# Runs a command in a Slurm job and queues the job again when the command was interrupted.
# The .sbatch files beside it exec this: it is then the job's batch script.
#
# Slurm itself sends SIGTERM to srun's tasks (--signal=TERM@120: two minutes before the time
# limit; at preemption, when the cluster gives a grace time). rfm saves and exits with 143.
set -euo pipefail

# Where a cluster signals the batch script, too, it must live on to queue the job again.
trap : TERM

status=0
"$@" || status=$?

# 75: another process was lost; above 128: killed, but 253 is srun's for out of memory. What is
# left would only come again.
((status == 75 || status > 128 && status != 130 && status != 253)) || exit "$status"
if ((${SLURM_RESTART_COUNT:-0} >= ${MAX_REQUEUES:-50})); then
  echo "requeue.sh: status $status, and ${SLURM_RESTART_COUNT:-0} requeues are enough" >&2
  exit "$status"
fi
# A job that scancel or Slurm's own preemption is ending is no longer RUNNING: theirs to decide.
# One task of an array has the array's own number: ask of, and queue, this one alone.
job=$SLURM_JOB_ID
if [[ ${SLURM_ARRAY_TASK_ID-} ]]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
state=$(squeue --noheader --jobs="$job" --format=%T) || state=RUNNING # too busy to say
if [[ $state == RUNNING ]]; then
  echo "requeue.sh: status $status, queueing job $job again" >&2
  scontrol requeue "$job"
fi
exit "$status"
