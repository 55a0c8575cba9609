#!/usr/bin/env bash
# Train to the end, whatever comes between: a crash, a lost process, a machine that restarts.
#
#   bash training/jobs/resumable.sh --config training/configs/cifar10.yaml [flags of train.py]
#
# Each start resumes from the newest undamaged checkpoint, or begins if there is none. A signal to this script goes
# to all processes of the run, which save and end; then it ends with status 75. A wrong setting (status 2), a
# diverging loss (3) and a full disk (4) end it, too, if LAUNCH passes their status on: python does, launchers
# put 1 in its place, and TRIES ends it.
#   LAUNCH  how to start it      (default: accelerate launch)
#   TRIES   how often to start   (default: 10)
set -uo pipefail
set -m # every start has a process group of its own: accelerate launch does not pass signals on
script="$(dirname "$0")/../train.py"
read -ra launch <<<"${LAUNCH:-accelerate launch}"
tries=${TRIES:-10}
stopped=0
child=
trap 'stopped=1; [[ -n $child ]] && kill -TERM -- "-$child" 2>/dev/null' TERM INT USR1

for ((try = 1; try <= tries; try++)); do
  ((stopped)) && exit 75
  "${launch[@]}" "$script" "$@" --resume_from_checkpoint latest &
  child=$!
  wait "$child"
  status=$?
  # A signal interrupts a wait; what it led to, a checkpoint, is waited for as long as the group lives.
  while kill -0 -- "-$child" 2>/dev/null; do
    wait "$child"
    status=$?
    sleep 0.2
  done
  ((stopped)) && exit 75
  case $status in
    0 | 2 | 3 | 4 | 75) exit $status ;;
  esac
  ((try < tries)) && next="going on" || next="giving up"
  echo "resumable.sh: start $try of $tries ended with status $status; $next" >&2
done
exit "$status"
