# The main job and its limits on control groups v2. Each check prints one line: `ok NAME`, or `not ok NAME: WHY`.
# shellcheck shell=sh

data=/data
# What sandboxes are made from.
from=small

# check FUNCTION [SUFFIX]: a suffix to its name when it is asked again.
check() {
    name=$1${2:-}
    if said=$("$1" 2>&1); then
        echo "ok $name"
    else
        echo "not ok $name: $(echo "$said" | tail -n 5 | tr '\r\n' '  ')"
    fi
}

# until_so COMMAND...: asks for a minute and a half at most.
until_so() {
    for _ in $(seq 180); do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.5
    done
    echo "not so in time: $*"
    "$@"
}

sandbox() { cat /tmp/id; }
inside() { atoll exec "$(sandbox)" -- sh -c "$1"; }
# Its control group was prepared before it had a name, unless an OCI runtime made it.
group() {
    prepared=$(sed -n 's/.*"group": *"\([^"]*\)".*/\1/p' "$data/sandboxes/$(sandbox)/record.json")
    find /sys/fs/cgroup -type d -name "${prepared:-$(sandbox)}"
}
says() { [ "$(cat "$1")" = "$2" ] || { echo "$1: $(cat "$1"), not $2" && false; }; }
# used NAME: a figure of what the sandbox uses.
used() { atoll usage "$(sandbox)" -o json | tr -d ' \n' | sed "s/.*\"$1\":\([0-9]*\).*/\1/"; }

serve() {
    atoll serve --data $data --disk-size 2Gi --listen 127.0.0.1:8080 --registry-mirror http://127.0.0.1:5000 \
        >>/tmp/serve.log 2>&1 &
    echo $! >/tmp/server
}

only_control_groups_v2() { grep -q ' cgroup2 ' /proc/mounts && ! grep ' cgroup ' /proc/mounts; }

doctor_lacks_only_the_image_maker() {
    atoll doctor --fix --data $data --registry-mirror http://127.0.0.1:5000 >/tmp/doctor 2>&1
    grep -w fail /tmp/doctor
    grep -q 'version 2' /tmp/doctor && [ "$(grep -w fail /tmp/doctor | cut -d' ' -f1)" = mmdebstrap ]
}

the_server_is_ready() {
    until_so wget -q -O /dev/null http://127.0.0.1:8080/readyz || { tail -n 5 /tmp/serve.log && return 1; }
}

an_image_is_pulled() { atoll images pull small; }

a_sandbox_is_made() {
    atoll create -o name --memory 128Mi --disk 64Mi --pids 64 --cpu 500m --disk-write-rate 500Mi $from >/tmp/id
}

a_template_names_crun() {
    printf 'name = "crun"\nimage = "small"\nruntime = "crun"\n' >/tmp/crun.toml && atoll templates apply -f /tmp/crun.toml
}

a_command_runs() { [ "$(inside 'echo hello; exit 0')" = hello ] && { inside 'exit 7'; [ $? = 7 ]; }; }

limits_are_set() {
    says "$(group)/memory.max" 134217728 && says "$(group)/memory.swap.max" 0 &&
        says "$(group)/pids.max" 64 && says "$(group)/cpu.max" "50000 100000" &&
        says "$(group)/io.max" "$(cat /sys/block/loop0/dev) rbps=max wbps=524288000 riops=max wiops=max"
}

the_sandbox_sees_its_own_group_only() {
    [ "$(inside 'cat /proc/self/cgroup')" = 0::/ ] && [ "$(inside 'cat /sys/fs/cgroup/memory.max')" = 134217728 ] &&
        { inside 'echo max >/sys/fs/cgroup/memory.max'; [ $? = 1 ]; }
}

a_memory_hog_is_killed() {
    inside 'exec awk "BEGIN { s = \"x\"; while (1) s = s s }"'
    code=$?
    echo "exit code $code, $(used oom_kills) kills"
    [ $code = 137 ] && [ "$(used oom_kills)" -gt 0 ] && a_command_runs
}

# The variables are the sandbox's own.
# shellcheck disable=SC2016
many_processes_are_refused() {
    inside 'i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i + 1)); done' && echo "200 were not refused" && return 1
    grep -q '^max [1-9]' "$(group)/pids.events" || return 1
    # What holds the places ends from outside: a shell to kill them with would need one.
    atoll restart "$(sandbox)" && until_so a_command_runs
}

a_busy_loop_is_throttled() {
    inside 'timeout 3 sh -c "while :; do :; done"'
    cat "$(group)/cpu.stat"
    grep -q '^nr_throttled [1-9]' "$(group)/cpu.stat"
}

a_paused_sandbox_is_frozen() {
    atoll pause "$(sandbox)" && grep -q 'frozen 1' "$(group)/cgroup.events" && atoll resume "$(sandbox)" &&
        grep -q 'frozen 0' "$(group)/cgroup.events" && a_command_runs
}

the_disk_limit_holds() {
    inside 'dd if=/dev/zero of=/big bs=1M count=200' && echo "200 MiB were written" && return 1
    inside 'rm /big && dd if=/dev/zero of=/small bs=1M count=20 && sync' || return 1
    echo "$(used disk_bytes) bytes used"
    [ "$(used disk_bytes)" -gt 20000000 ] && [ "$(used disk_bytes)" -le 67108864 ]
}

# ask ADDRESS: a line of shell that prints what the web server there says. Not wget: busybox's own crashes on addresses
# other than loopback's, for want of the C library's name services.
# shellcheck disable=SC2028
ask() { echo "printf 'GET /index.html HTTP/1.0\r\n\r\n' | nc -w 10 $1 80"; }

the_network_reaches_out() { inside "$(ask 9.9.9.9)" | grep -x outside; }

the_network_does_not_reach_the_machine() {
    sh -c "$(ask 9.9.9.1)" | grep -qx outside || return 1
    inside "$(ask 9.9.9.1)"
    [ $? = 1 ]
}

stop_and_start_keep_files() {
    inside 'echo kept >/root/file' && atoll stop "$(sandbox)" && until_so no_processes && atoll start "$(sandbox)" &&
        [ "$(inside 'cat /root/file')" = kept ]
}
no_processes() { [ ! -s "$(group)/cgroup.procs" ]; }

a_killed_server_is_succeeded() {
    inside 'sleep 5000 & echo $!' >/tmp/sleeper
    kill -9 "$(cat /tmp/server)"
    serve
    the_server_is_ready && inside "kill -0 $(cat /tmp/sleeper)" && a_command_runs
}

a_deleted_sandbox_leaves_nothing() {
    group >/tmp/group
    atoll rm -f "$(sandbox)" && until_so nothing_of_the_sandbox
}
nothing_of_the_sandbox() {
    [ ! -d "$(cat /tmp/group)" ] && [ -z "$(ls $data/disk/sandboxes)" ] && ! grep "$(sandbox)" /proc/mounts
}

a_destroyed_directory_leaves_nothing() {
    kill "$(cat /tmp/server)"
    until_so server_is_gone && atoll destroy --force --data $data || return 1
    find /sys/fs/cgroup -type d -name 'atoll*'
    grep $data /proc/mounts
    /usr/bin/losetup -a
    nft list tables
    /usr/bin/ip -o link
    [ -z "$(find /sys/fs/cgroup -type d -name 'atoll*')" ] && ! grep -q $data /proc/mounts && [ -z "$(/usr/bin/losetup -a)" ] &&
        [ -z "$(nft list tables)" ] && [ "$(/usr/bin/ip -o link | wc -l)" = 2 ]
}
# One that nobody has waited for yet is gone too: it has no program any more.
server_is_gone() { [ ! -e "/proc/$(cat /tmp/server)/exe" ]; }

docker-registry serve /registry/config.json >/tmp/registry.log 2>&1 &
check only_control_groups_v2
check doctor_lacks_only_the_image_maker
serve
check the_server_is_ready
[ -s $data/admin.key ] || exit 1
ATOLL_API_KEY=$(cat $data/admin.key)
export ATOLL_API_KEY ATOLL_URL=http://127.0.0.1:8080
check an_image_is_pulled
check a_sandbox_is_made
[ -s /tmp/id ] || exit 1
check a_command_runs
check the_network_reaches_out
check the_network_does_not_reach_the_machine
check limits_are_set
check the_sandbox_sees_its_own_group_only
check a_memory_hog_is_killed
check many_processes_are_refused
check a_busy_loop_is_throttled
check a_paused_sandbox_is_frozen
check the_disk_limit_holds
check stop_and_start_keep_files
check a_killed_server_is_succeeded
check a_deleted_sandbox_leaves_nothing
from=crun
check a_template_names_crun
check a_sandbox_is_made _with_crun
check a_command_runs _with_crun
check the_network_reaches_out _with_crun
check the_network_does_not_reach_the_machine _with_crun
check limits_are_set _with_crun
check the_sandbox_sees_its_own_group_only _with_crun
check a_memory_hog_is_killed _with_crun
check many_processes_are_refused _with_crun
check a_busy_loop_is_throttled _with_crun
check a_paused_sandbox_is_frozen _with_crun
check the_disk_limit_holds _with_crun
check stop_and_start_keep_files _with_crun
check a_killed_server_is_succeeded _with_crun
check a_deleted_sandbox_leaves_nothing _with_crun
check a_destroyed_directory_leaves_nothing
