#!/usr/bin/env bash
# A new user's first minutes: ./run, the commands that it prints, Ctrl-C, and a second start that finds the sandboxes.
# Prints how long both starts took; only what they did is checked.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

dir=$(mktemp -d)
port=$((20000 + RANDOM % 10000))
run=

finish() {
    local status=$?
    [ -z "$run" ] || kill -TERM "$run" 2>/dev/null || true
    wait 2>/dev/null || true
    target/release/atoll destroy -f --data "$dir/data" >/dev/null 2>&1 || status=1
    [ "$status" = 0 ] || sed 's/^/  /' "$dir"/*.log >&2
    rm -rf "$dir"
    exit "$status"
}
trap finish EXIT

# start NAME: starts ./run and waits until it has said all it has to say.
start() {
    local begun=${EPOCHREALTIME/./} patience=18000
    ./run --data "$dir/data" --listen "127.0.0.1:$port" >"$dir/$1.log" 2>&1 &
    run=$!
    until grep -q '^Ctrl-C stops' "$dir/$1.log"; do
        kill -0 "$run" 2>/dev/null || die first_use "./run ended"
        [ $((patience -= 1)) -gt 0 ] || die first_use "./run does not get ready"
        sleep 0.1
    done
    printf '%s start: %d ms\n' "$1" $(((${EPOCHREALTIME/./} - begun) / 1000))
}

stop() {
    kill -TERM "$run"
    wait "$run" || die first_use "./run ended with $? when it was stopped"
    run=
}

# says PATTERN COMMAND: runs a command with the printed environment and looks for a line in what it says.
says() {
    local said
    said=$(bash -c "$environment"$'\n'"$2" 2>&1) || die first_use "$2 failed: $said"
    grep -qE "$1" <<<"$said" || die first_use "$2 said: $said"
}

start first
mapfile -t printed < <(sed -n '/In another terminal:$/,/^The code interpreter/s/^  //p' "$dir/first.log")
[ ${#printed[@]} = 4 ] || die first_use "./run printed ${#printed[@]} lines to try, not an environment and three commands"
environment=${printed[0]}
says '^hello$' "${printed[1]}"
says ' running ' "${printed[2]}"
says '"phase": *"running"' "${printed[3]}"
stop
start second
says '^2$' "target/release/atoll ls -o name | wc -l"
stop
echo "first_use: ./run, its three commands and a second start work"
