#!/usr/bin/env bash
# Builds the OCI runtimes that Debian has not, or only too old, into a folder: each once, some two minutes each; all of
# them, or those named. One that cannot be built leaves NAME.why there, which the test that misses it repeats.
set -euo pipefail

into=${1:?usage: scripts/runtimes.sh FOLDER [runsc] [containerd-shim-runsc-v1] [youki]}
shift
[ $# -gt 0 ] || set -- runsc youki
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

# What containerd starts gVisor through. It insists on a claim to survive want of memory, -999, which takes CAP_SYS_RESOURCE;
# where that is missing, no pod would start.
containerd-shim-runsc-v1() {
    command -v go || { echo "Go 1.21 or newer is needed, and there is none" && return 1; }
    local source
    source=$(cd / && go mod download -json "gvisor.dev/gvisor@$GVISOR" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') &&
        mkdir -p "$work/bin" && cp -r "$source" "$work/gvisor" && chmod -R u+w "$work/gvisor" &&
        sed -i 's/oomScoreMax = -999/oomScoreMax = 0/' "$work/gvisor/pkg/shim/v1/manager.go" &&
        CGO_ENABLED=0 timeout 900 go build -C "$work/gvisor" -trimpath -ldflags='-s -w' -o "$work/bin/$name" ./shim
}

youki() {
    timeout 900 cargo install youki --version "$YOUKI" --locked --no-default-features --features v1,v2,seccomp \
        --root "$work" --target-dir "$work/target"
}

mkdir -p "$into"
work=$(mktemp -d "$into/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
PATH="$PATH:/usr/local/go/bin"
for name in "$@"; do
    case $name in
    runsc | containerd-shim-runsc-v1) build "$name" "$GVISOR" "$name" ;;
    youki) build youki "$YOUKI" youki ;;
    *) echo "scripts/runtimes.sh: no runtime $name" >&2 && exit 2 ;;
    esac
done
