#!/bin/bash
# One run on several SLURM nodes with GPUs:
#   sbatch --nodes 2 launch/cluster/slurm.sh --config configs/continuous.py:rendered --workdir SHARED/runs/continuous
# The workdir and the data must lie on a file system that all nodes see. JAX gives each task of a node one of its GPUs,
# so there is one task per GPU.
#
# The tasks get SIGTERM two minutes before the time limit and when the job is preempted: they save and end with the
# status 143. If a node is lost, the others end with 75. In both cases this script puts the job back into the queue,
# which SLURM itself does for preempted jobs and failed nodes only; the job then resumes. A job that fails in another way
# (status 2: a mistake in flags or files) or that is cancelled ends. After 100 restarts it ends as well.
#SBATCH --job-name=jaxface
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

# shellcheck source=/dev/null
source .venv/bin/activate
# A proxy between the nodes would stop the hosts from finding each other.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

status=0
# srun does not take --cpus-per-task from sbatch in SLURM 22.05 to 23.02. Once a task has ended, the others have a minute.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --wait=60 python -m launch.train --coordinator auto "$@" || status=$?
if [[ $status == 143 || $status == 75 ]] && ((${SLURM_RESTART_COUNT:-0} < 100)); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
