# The main job and its limits on control groups v2. Each check prints one line that begins with RESULT.
# shellcheck shell=sh

check() {
    name=$1
    shift
    if said=$("$@" 2>&1); then
        echo "RESULT $name ok"
    else
        echo "RESULT $name FAILED: $(echo "$said" | tail -n 3 | tr '\n' ' ')"
    fi
}

only_v2() { [ "$(grep -c ' cgroup ' /proc/mounts)" = 0 ] && grep -q ' cgroup2 ' /proc/mounts; }

ready() {
    for _ in $(seq 240); do
        wget -q -O /dev/null http://127.0.0.1:8080/readyz && return 0
        sleep 0.5
    done
    tail -n 5 /tmp/serve.log
    return 1
}

create() {
    id=$(atoll create -o name base --memory 128Mi --pids 64 --cpu 500m) || return 1
    echo "$id" >/tmp/id
}

hello() { [ "$(atoll exec "$(cat /tmp/id)" -- python3 -c 'print("hello")')" = hello ]; }

group() { find /sys/fs/cgroup -type d -name "*$(cat /tmp/id)*" | head -n 1; }

limits_are_set() {
    dir=$(group)
    echo "$dir: $(cat "$dir/memory.max") $(cat "$dir/pids.max") $(cat "$dir/cpu.max")"
    [ "$(cat "$dir/memory.max")" = 134217728 ] && [ "$(cat "$dir/pids.max")" = 64 ] &&
        [ "$(cut -d' ' -f1 "$dir/cpu.max")" -lt "$(cut -d' ' -f2 "$dir/cpu.max")" ]
}

memory_hog_is_killed() {
    atoll exec "$(cat /tmp/id)" -- python3 -c 'x = bytearray(1 << 29)'
    [ $? = 137 ] && hello && atoll usage "$(cat /tmp/id)" -o json | tr -d ' \n' | grep -q '"oom_kills":[1-9]'
}

fork_bomb_is_refused() {
    atoll exec "$(cat /tmp/id)" -- python3 -c '
import os, signal
try:
    for n in range(500):
        if os.fork() == 0: signal.pause()
except OSError as e:
    assert e.errno == 11 and n < 64
    os.killpg(0, 9)
raise SystemExit("was not refused")'
    [ $? = 137 ] && hello
}

pause_freezes() {
    atoll pause "$(cat /tmp/id)" && grep -q 'frozen 1' "$(group)/cgroup.events" && atoll resume "$(cat /tmp/id)" && hello
}

server_is_succeeded() {
    kill -9 "$server"
    wait "$server"
    serve
    ready && hello
}

delete() {
    dir=$(group)
    atoll rm -f "$(cat /tmp/id)" || return 1
    for _ in $(seq 60); do
        [ -d "$dir" ] || return 0
        sleep 0.5
    done
    echo "$dir is still there"
    return 1
}

serve() {
    atoll serve --data /data --listen 127.0.0.1:8080 >>/tmp/serve.log 2>&1 &
    server=$!
}

serve
check only_control_groups_v2 only_v2
check the_server_is_ready ready
ATOLL_API_KEY=$(cat /data/admin.key)
export ATOLL_API_KEY ATOLL_URL=http://127.0.0.1:8080
check create create
check hello hello
check limits_are_set limits_are_set
check memory_hog_is_killed memory_hog_is_killed
check fork_bomb_is_refused fork_bomb_is_refused
check pause_freezes pause_freezes
# Not through check: it runs in a shell of its own, and the new server must be a child of this one.
if server_is_succeeded >/tmp/succeeded 2>&1; then
    echo "RESULT server_is_succeeded ok"
else
    echo "RESULT server_is_succeeded FAILED: $(tail -n 1 /tmp/succeeded)"
fi
check delete delete
echo "The server's last words:"
tail -n 20 /tmp/serve.log
kill "$server"
wait "$server"
