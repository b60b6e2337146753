#!/usr/bin/env bash
# Builds the OCI runtimes that Debian has not, or only too old, into a folder: each once, some two minutes each. One that
# cannot be built leaves NAME.why there, which the test that misses it repeats.
set -euo pipefail

into=${1:?usage: scripts/runtimes.sh FOLDER}
GVISOR=v0.0.0-20260905035102-160fafc42237
YOUKI=0.7.0

# build NAME VERSION COMMAND...: unless it is there in that version. The command puts it into the folder bin of $work.
build() {
    local name=$1 version=$2
    shift 2
    if [ -x "$into/$name" ] && [ "$(cat "$into/$name.version" 2>/dev/null)" = "$version" ]; then return 0; fi
    echo "test: building $name $version (some two minutes, once)" >&2
    if "$@" >"$work/log" 2>&1; then
        mv "$work/bin/$name" "$into/$name"
        echo "$version" >"$into/$name.version"
        rm -f "$into/$name.why"
    else
        echo "it could not be built: $(tail -n 1 "$work/log")" | tee "$into/$name.why" >&2
    fi
}

runsc() {
    command -v go || { echo "Go 1.21 or newer is needed, and there is none" && return 1; }
    GOBIN=$work/bin CGO_ENABLED=0 timeout 900 go install -ldflags='-s -w' "gvisor.dev/gvisor/runsc@$GVISOR"
}

youki() {
    timeout 900 cargo install youki --version "$YOUKI" --locked --no-default-features --features v1,v2,seccomp \
        --root "$work" --target-dir "$work/target"
}

mkdir -p "$into"
work=$(mktemp -d "$into/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
PATH="$PATH:/usr/local/go/bin"
build runsc "$GVISOR" runsc
build youki "$YOUKI" youki
