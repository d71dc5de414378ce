#!/bin/bash
# One run on all workers of a Cloud TPU slice, from any machine with gcloud:
#   export TPU=NAME ZONE=us-west4-a
#   launch/cluster/tpu_pod.sh create v5litepod-16 v2-alpha-tpuv5-lite [--spot]    # asks for the slice and waits for it
#   launch/cluster/tpu_pod.sh install REPOSITORY                                  # on every worker, into ~/jaxface
#   launch/cluster/tpu_pod.sh start --config configs/continuous.py:rendered --workdir WORKDIR
#   launch/cluster/tpu_pod.sh log | stop | delete
# The workdir and the data must lie on storage that all workers see (a mounted bucket or Filestore).
#
# The run is a service of systemd: it outlives the ssh connection. `stop` lets it save. If it ends with 75 (a worker was
# lost) or 143 (SIGTERM from the platform), it is started again and resumes. A slice that was preempted is gone: delete
# it, and create, install and start again.
set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?zone of the slice}"

on_all_workers() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker all --command "$1"
}

state() {
  gcloud compute tpus queued-resources describe "$TPU" --zone "$ZONE" --format "value(state.state)"
}

command=${1:?create, install, start, log, stop or delete}
shift
case $command in
  create)
    gcloud compute tpus queued-resources create "$TPU" --node-id "$TPU" --zone "$ZONE" \
      --accelerator-type "${1:?accelerator type}" --runtime-version "${2:?runtime version}" "${@:3}"
    until [[ $(state) == ACTIVE ]]; do sleep 30; done
    ;;
  install)
    # The images have Python 3.10; uv brings a newer one.
    printf -v repository "%q" "${1:?address of the repository}"
    on_all_workers "set -e; [ -d jaxface ] || git clone $repository jaxface; cd jaxface; git pull --ff-only
      python3 -m pip install --user uv; python3 -m uv venv --clear --python 3.12 .venv
      python3 -m uv pip install --python .venv/bin/python -e '.[data,tpu]'"
    ;;
  start)
    printf -v arguments "%q " "$@"
    on_all_workers "sudo systemd-run --unit jaxface --collect --uid \"\$USER\" --working-directory \"\$HOME/jaxface\" \
      --property 'RestartForceExitStatus=75 143' --property RestartSec=10 --property TimeoutStopSec=300 \
      \"\$HOME/jaxface/.venv/bin/python\" -m launch.train --coordinator auto --backend shard_map $arguments"
    ;;
  log) on_all_workers "journalctl --unit jaxface --lines 20 --no-pager" ;;
  stop) on_all_workers "sudo systemctl stop jaxface" ;;
  delete) gcloud compute tpus queued-resources delete "$TPU" --zone "$ZONE" --force ;;
  *)
    echo "error: $command: unknown; use create, install, start, log, stop or delete" >&2
    exit 2
    ;;
esac
