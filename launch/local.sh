#!/usr/bin/env bash
# Several processes on this machine that train together; ends when the run is finished.
#
#   launch/local.sh PROCESSES --config=FILE [--workdir=DIR] [--config.key=value …]
#
# Where there are GPUs, process 0 takes the first, process 1 the second, and so on. One process per
# machine is enough otherwise: this is for trying things out.
#
# When a process dies or is told to stop (SIGTERM), all end, and are started again from the last
# checkpoint: after deaths RESTARTS times (default 5). SIGTERM or ctrl-C to this script saves and
# ends for good. PYTHON names the interpreter.
set -uo pipefail

processes=${1:?how many processes? launch/local.sh PROCESSES --config=FILE …}
shift
restarts=${RESTARTS:-5}
python=${PYTHON:-python}

stopping=false
pids=()
stop() {
    stopping=true
    kill -TERM "${pids[@]}" 2>/dev/null
}
trap stop TERM INT

while true; do
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
    pids=()
    for ((i = 0; i < processes; i++)); do
        export ONEDIFF_COORDINATOR=localhost:$port ONEDIFF_PROCESSES=$processes ONEDIFF_PROCESS=$i
        if [[ -e /dev/nvidia0 ]]; then
            export CUDA_VISIBLE_DEVICES=$i
        fi
        "$python" -m onediff_jax.main --exit_when_stopped=75 "$@" &
        pids+=($!)
    done
    if $stopping; then
        stop # the signal came before they were there
    fi

    wait -n "${pids[@]}" # the first to end says why
    code=$?
    while $stopping && [[ -n $(jobs -rp) ]]; do
        wait # they save
    done
    for ((s = 0; s < 90; s++)); do # the others notice within a minute
        [[ -n $(jobs -rp) ]] || break
        sleep 1
    done
    kill -KILL "${pids[@]}" 2>/dev/null
    wait

    if $stopping; then
        exit 75
    fi
    case $code in
        0) exit 0 ;;                                      # finished
        1 | 2) exit "$code" ;;                            # bad input: again would be the same
        75) echo "stopped by SIGTERM; starting again" ;;  # saved first
        *)
            if ((restarts-- == 0)); then
                exit "$code"
            fi
            echo "a process ended with code $code; starting again, $restarts more times at most"
            ;;
    esac
done
