# Shared by the programs of the test cluster: its names, its addresses, its processes. Sourced, never run.
# shellcheck shell=bash disable=SC2034 # most of it is for those who source this

say() { printf '%s\n' "$*" >&2; }
die() {
    say "${0##*/}: $*"
    exit 1
}

# cluster NAME: sets what follows from the name. An interface's name has at most 15 characters, and nodes add to it.
cluster() {
    name=$1
    [[ $name =~ ^[a-z][a-z0-9-]{0,13}$ ]] ||
        die "--name $name: a name has 1 to 14 of a-z, 0-9 and -, and begins with a letter"
    dir=/run/$name
    data=/var/lib/atoll-clusters/$name
    pids=$dir/pids
    logs=$dir/log
    pki=$dir/pki
    settings=$dir/settings
}

# The cluster has one /16: `$net` is its first two numbers.
addresses() {
    net=$1
    control=$net.0.1
    pod_range=$net.16.0/20
    service_range=$net.96.0/20
    dns=$net.96.10
    host=$net.255.2
    registry=$control:5000
}

node_names=(node1 node2)
domain=atoll.test
content_domain=atoll-content.test
# Addresses beyond the cluster that answer HTTP: one like any on the internet, and the one where clouds give out credentials.
outside=93.184.216.34
metadata=169.254.169.254

node_address() { echo "$net.0.1${1#node}"; }
node_pods() { echo "$net.$((16 + ${1#node})).0/24"; }

# load NAME: a cluster that is up, or a refusal.
load() {
    cluster "$1"
    [ -s "$settings" ] || die "there is no cluster $name; start it with tests/cluster/up --name $name"
    parts=
    # shellcheck source=/dev/null
    . "$settings"
    addresses "$net"
    PATH=$parts:$PATH
    export KUBECONFIG=$dir/kubeconfig
}

# A process is known by its number and the time it began, because numbers come again.
began() { cut -d ' ' -f 22 "/proc/$1/stat" 2>/dev/null; }

remember() { echo "$2 $(began "$2")" >"$pids/$1"; }

# running COMPONENT: prints its process id while it lives.
running() {
    local pid time
    [ -s "$pids/$1" ] || return 1
    read -r pid time <"$pids/$1"
    [ -n "$time" ] && [ "$(began "$pid")" = "$time" ] && [ "$(cut -d ' ' -f 3 "/proc/$pid/stat")" != Z ] && echo "$pid"
}

# launch COMPONENT NETNS COMMAND...: in the background, in a session of its own, its output in the log.
launch() {
    local component=$1 where=$2
    shift 2
    setsid nsenter "--net=/run/netns/$where" "$@" >>"$logs/$component.log" 2>&1 </dev/null 9>&- &
    remember "$component" $!
    disown
}

# keep COMPONENT NETNS COMMAND...: as launch; what ends of itself is started again, as a kubelet does for a control plane.
keep() {
    local component=$1
    (
        keeps() { [ "$(cat "$pids/$component.keeper")" = "$BASHPID" ]; }
        echo "$BASHPID" >"$pids/$component.keeper"
        while keeps; do
            # Whoever stops it says so first.
            running "$component" || ! keeps || launch "$@"
            sleep 0.5
        done
    ) >/dev/null 2>&1 </dev/null 9>&- &
    disown
    until running "$component" >/dev/null; do sleep 0.05; done
}

# stop COMPONENT [SIGNAL]: and wait until it is gone; after ten seconds without mercy.
stop() {
    local pid tries=0
    rm -f "$pids/$1.keeper"
    pid=$(running "$1") || return 0
    kill "-${2:-TERM}" "$pid" 2>/dev/null || true
    # One that is stopped takes no other signal.
    kill -CONT "$pid" 2>/dev/null || true
    while running "$1" >/dev/null; do
        [ $((tries += 1)) -lt 200 ] || kill -KILL "$pid" 2>/dev/null || true
        sleep 0.05
    done
    rm -f "$pids/$1"
}

# within SECONDS WHAT COMMAND...: tries until the command succeeds; the cluster is useless where it does not.
within() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || die "$what: not within the time allowed; see $logs"
        sleep 0.1
    done
}

# leave GROUP: takes a node's control groups away, or the cluster's. runc makes some in hierarchies that nobody asked for.
leave() {
    local each
    for each in /sys/fs/cgroup/*/"$1"; do
        [ ! -d "$each" ] || find "$each" -depth -type d -exec rmdir {} +
    done
}

# The hierarchies of control groups, version 1, that nodes have groups in.
hierarchies() {
    local each
    for each in cpu cpuacct cpuset memory devices freezer blkio pids systemd hugetlb net_cls net_prio perf_event; do
        if grep -q " /sys/fs/cgroup/$each cgroup " /proc/mounts; then echo "/sys/fs/cgroup/$each"; fi
    done
}
