# Shared by the suites of what is in deploy/: cases that are tried one by one, and how their results are told. Sourced.
# shellcheck shell=bash

passed=0 failed=0 skipped=0
# What a case leaves; the suite removes it.
work=$(mktemp -d)

# fails COMMAND...: it must.
fails() { if "$@"; then echo "it should fail: $*" && return 1; fi; }

# says WORDS COMMAND...: it fails with these words, and with nothing done.
says() {
    local words=$1
    shift
    fails "$@" >"$work/said" 2>&1 || { cat "$work/said" && return 1; }
    grep -qF -- "$words" "$work/said" || { echo "no \`$words\` in what $* said:" && cat "$work/said" && return 1; }
}

# same WANTED GOT WHAT: two texts are equal.
same() {
    diff <(printf '%s\n' "$1") <(printf '%s\n' "$2") || { echo "$3: < is wanted, > is there" && return 1; }
}

# eventually SECONDS COMMAND...
eventually() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "not in time: $*" && "$@" && return 0 || return 1; }
        sleep 0.2
    done
}

# skip REASON: within a case, which then is no pass.
skip() { echo "$1" >"$work/skipped"; }

# try CASE: in the background, because the shell stops at no error within a condition.
try() {
    local began=$SECONDS
    rm -f "$work/skipped"
    ("$1") >"$work/log" 2>&1 </dev/null &
    if ! wait $!; then
        failed=$((failed + 1))
        echo "FAILED: $1"
        sed 's/^/    /' "$work/log"
    elif [ -e "$work/skipped" ]; then
        skipped=$((skipped + 1))
        echo "SKIPPED: $1: $(cat "$work/skipped")"
    else
        passed=$((passed + 1))
        echo "ok: $1 ($((SECONDS - began)) s)"
    fi
}

finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}
