#!/usr/bin/env bash
# A slice of TPU VMs, spot or reserved, from any machine with gcloud; ends when the run is finished.
#
#   TPU=NAME ZONE=us-central2-b TYPE=v5litepod-256 \
#       launch/tpu_vm.sh --config=FILE --workdir=gs://BUCKET/DIR [--config.key=value …]
#
# Asks for the slice (a queued resource), puts this folder on all its hosts, installs and starts the
# same command on each: they find each other through the TPU's metadata. When the slice is preempted
# or a host fails it is asked for again, and the run goes on from its last checkpoint; bad input
# (exit codes 1 and 2) ends it. SIGTERM or ctrl-C to this script leaves the slice and the run as they are.
#
# PROJECT, VERSION (of the TPU software) and QUEUE (--spot, --reserved; default --spot) may be set.
set -uo pipefail

tpu=${TPU:?name of the TPU to make or use}
version=${VERSION:-v2-alpha-tpuv5-lite}
where=(--zone="${ZONE:?zone, as in gcloud}")
if [[ -n ${PROJECT:-} ]]; then
    where+=(--project="$PROJECT")
fi
log() { echo "$(date +%H:%M:%S) $*"; }

state() {
    gcloud compute tpus queued-resources describe "$tpu" "${where[@]}" \
        --format='value(state.state)' 2>/dev/null
}

on_all_hosts() {
    gcloud compute tpus tpu-vm ssh "$tpu" "${where[@]}" --worker=all --command="$1"
}

# Makes the slice if there is none, and waits until it is there.
ask() {
    while true; do
        case $(state) in
            ACTIVE) return ;;
            "")
                log "asking for $tpu"
                gcloud compute tpus queued-resources create "$tpu" "${where[@]}" --node-id="$tpu" \
                    --accelerator-type="${TYPE:?e.g. v5litepod-256}" --runtime-version="$version" \
                    "${QUEUE:---spot}" || sleep 60
                ;;
            SUSPENDED | FAILED)
                log "$tpu was taken away"
                gcloud compute tpus queued-resources delete "$tpu" "${where[@]}" --force --quiet
                ;;
            *) sleep "${POLL:-30}" ;; # waiting for its turn, or being made
        esac
    done
}

install() {
    git archive --format=tar.gz --output=/tmp/onediff.tar.gz HEAD &&
        gcloud compute tpus tpu-vm scp /tmp/onediff.tar.gz "$tpu:" "${where[@]}" --worker=all &&
        on_all_hosts 'mkdir -p onediff && tar -xzf onediff.tar.gz -C onediff && cd onediff &&
            python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt -e . "jax[tpu]"'
}

command="cd onediff && .venv/bin/python -m onediff_jax.main --exit_when_stopped=75 $(printf '%q ' "$@")"
while true; do
    ask
    if install; then
        on_all_hosts "$command"
        code=$?
        if ((code <= 2)); then
            exit "$code"
        fi
        log "ended with code $code"
    fi
    # What is left of an earlier start must not hold the TPU.
    on_all_hosts 'pkill -f onediff_jax.main; sleep 5; pkill -9 -f onediff_jax.main; true'
done
