#!/bin/bash
# One run on several SLURM nodes with GPUs:
#   sbatch --nodes 2 launch/cluster/slurm.sh --config configs/continuous.py:rendered --workdir SHARED/runs/continuous
# The workdir and the data must lie on a file system that all nodes see. JAX gives each task of a node one of its GPUs,
# so there is one task per GPU. Two minutes before the time limit, and when it is preempted, the job gets SIGTERM: it
# saves and exits. SLURM requeues a preempted job; after the time limit submit it again. Both resume.
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

source .venv/bin/activate
# A proxy between the nodes would stop the hosts from finding each other.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
srun --kill-on-bad-exit=1 python -m launch.train --coordinator auto "$@"
