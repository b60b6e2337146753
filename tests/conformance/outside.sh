# A place beyond this machine, for sandboxes alone: a network namespace with two public addresses that answer HTTP. Sourced.
# shellcheck shell=bash

# Addresses like any on the internet; nothing on this machine is ever led there but what the suite itself asks.
outside_addresses=(93.184.216.34 93.184.216.35)

# As `python3 -m http.server` does, without asking for the name of its address first.
outside_program='import http.server, socketserver, sys
socketserver.TCPServer((sys.argv[1], 80), http.server.SimpleHTTPRequestHandler).serve_forever()'

# begin_outside NAME: the name is an interface's, and none that a server would take for its own (atoll...). Fails where this machine forwards nothing, or somebody else's suite has these addresses.
begin_outside() {
    local name=$1 address
    [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] || return 1
    [ -z "$(ip route show "${outside_addresses[0]}/32")" ] || return 1
    ip netns add "$name"
    ip link add "$name" type veth peer name eth0 netns "$name"
    ip address add 198.18.255.1/30 dev "$name"
    ip link set "$name" up
    ip -n "$name" address add 198.18.255.2/30 dev eth0
    ip -n "$name" link set eth0 up
    ip -n "$name" link set lo up
    ip -n "$name" route add default via 198.18.255.1
    for address in "${outside_addresses[@]}"; do
        ip -n "$name" address add "$address/32" dev lo
        ip route add "$address/32" via 198.18.255.2 dev "$name"
        ip netns exec "$name" python3 -c "$outside_program" "$address" >/dev/null 2>&1 &
        outside_pids+=($!)
    done
}

# end_outside NAME: its routes go with its interface.
end_outside() {
    [ ${#outside_pids[@]} -eq 0 ] || kill "${outside_pids[@]}" 2>/dev/null || true
    ip netns delete "$1" 2>/dev/null || true
    ip link delete "$1" 2>/dev/null || true
}
outside_pids=()
