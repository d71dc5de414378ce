#!/bin/bash
# One run on all workers of a Cloud TPU pod slice, from any machine with gcloud:
#   TPU=name ZONE=us-central2-b launch/cluster/tpu_pod.sh --config configs/continuous.py:rendered --workdir WORKDIR
# Beforehand, on every worker (gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker all --command ...):
#   git clone of this repository into ~/jaxface, python3 -m venv .venv, .venv/bin/pip install -e ".[data]" "jax[tpu]"
# The workdir and the data must lie on storage that all workers see (a mounted bucket or Filestore).
set -euo pipefail

printf -v arguments "%q " "$@"
gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker all --command \
  "cd jaxface && exec .venv/bin/python -m launch.train --coordinator auto $arguments"
