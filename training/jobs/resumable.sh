#!/usr/bin/env bash
# Train to the end, whatever comes between: a crash, a lost process, a machine that restarts.
#
#   bash training/jobs/resumable.sh --config training/configs/cifar10.yaml [flags of train.py]
#
# Each start resumes from the newest undamaged checkpoint, or begins if there is none. A wrong setting (status 2),
# a diverging loss (3), a full disk (4) and a signal (75) end it, because somebody must act or asked for it.
#   LAUNCH  how to start it      (default: accelerate launch; behind it, every status but 0 is 1)
#   TRIES   how often to start   (default: 10)
set -uo pipefail
script="$(dirname "$0")/../train.py"
read -ra launch <<<"${LAUNCH:-accelerate launch}"
tries=${TRIES:-10}
stopped=0
trap 'stopped=1; [[ -n ${child:-} ]] && kill -TERM "$child"' TERM INT USR1

for ((try = 1; try <= tries; try++)); do
  "${launch[@]}" "$script" "$@" --resume_from_checkpoint latest &
  child=$!
  # A signal interrupts the first wait; the second one waits for the checkpoint that it led to.
  wait "$child" || wait "$child"
  status=$?
  case $status in
    0 | 2 | 3 | 4 | 75) exit $status ;;
  esac
  ((stopped)) && exit 75
  echo "resumable.sh: start $try of $tries ended with status $status; going on" >&2
done
exit "$status"
