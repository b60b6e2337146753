# Cases of what people reach from outside: objects by kubectl alone, one sandbox for each user with its desktop, containers of
# /api/kata, routes of single sandboxes. All through Traefik, on the installation of `installed`. Sourced by it.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2016 # what `installed` sets, and words for other shells

# content HOST_LABEL PATH [CURL'S]...: from a host name of sandboxes.
content() { through_traefik "$1.$ATOLL_CLUSTER_CONTENT_DOMAIN" "${@:2}"; }
content_status() { content "$1" "$2" -o /dev/null -w '%{http_code}' "${@:3}"; }
answers() { [ "$(content "$@" 2>/dev/null)" = "$wanted" ]; }
# client KIND HOST_LABEL [MORE]...
client() { "$here/through.py" "$1" "$2.$ATOLL_CLUSTER_CONTENT_DOMAIN" "${@:3}"; }
# member JSON EXPRESSION: of `it`, in Python.
member() { /usr/bin/python3 -c 'import json, sys; it = json.loads(sys.argv[1]); print(eval(sys.argv[2]))' "$1" "$2"; }
phase() { [ "$(t get sandbox "$1" -o 'jsonpath={.status.phase}')" = "$2" ]; }
running() { eventually 90 phase "$1" Running || { t describe sandbox "$1" && return 1; }; }
no_sandbox() { [ -z "$(t get sandbox "$1" -o name --ignore-not-found)" ]; }
# exec ID SHELL_LINE: by the API; prints the standard output.
exec_in() {
    local body answer
    body=$(/usr/bin/python3 -c 'import json, sys; print(json.dumps({"command": ["sh", "-c", sys.argv[1]], "timeout": 60}))' "$2")
    answer=$(api "/api/v1/sandboxes/$1/exec" -H 'Content-Type: application/json' -d "$body")
    [ "$(member "$answer" 'it["exit_code"]')" = 0 ] || { echo "$answer" >&2 && return 1; }
    member "$answer" 'it["stdout"]'
}

# With names as a cluster has them: the command line finds Traefik under the API's name.
atoll_outside() {
    printf '127.0.0.1 localhost\n%s api.%s\n' "$ATOLL_CLUSTER_TRAEFIK" "$ATOLL_CLUSTER_DOMAIN" >"$work/hosts"
    ATOLL_URL=https://api.$ATOLL_CLUSTER_DOMAIN ATOLL_API_KEY=$(admin_key) XDG_CONFIG_HOME=/nonexistent \
        unshare -m sh -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$work/hosts" \
        "${CARGO_TARGET_DIR:-target}/debug/atoll" --ca "$ATOLL_CLUSTER_CA" "$@"
}

# The images that sandboxes are made of.
images_of_sandboxes() {
    tests/cluster/base --name "$ATOLL_CLUSTER"
    "$here/desktop" "$ATOLL_CLUSTER"
}

example() { sed "s|docker.io/library/python:3.13-slim|$ATOLL_CLUSTER_REGISTRY/base:latest|" examples/sandbox.yaml; }

# Nothing but the object: no API, no template.
an_object_alone_is_a_sandbox() {
    local id
    example | kubectl apply -f - 2>&1 | tee "$work/said"
    fails grep -i warning "$work/said"
    running alice
    t get sandbox alice -o wide | tee "$work/said"
    grep -qE '^NAME +PHASE +TEMPLATE +OWNER +NODE +REASON +AGE' "$work/said"
    grep -qE '^alice +Running +alice +node[12]' "$work/said"
    id=$(t get sandbox alice -o 'jsonpath={.status.id}')
    # A new volume begins with what the image has at its place, and is the user's.
    same "user user" "$(exec_in "$id" 'stat -c %U /home/user /home/user/.bashrc' | xargs)" "who owns what is at home"
    same hello "$(atoll_outside exec "$id" -- echo hello)" "what the command line shows"
    same 3 "$(atoll_outside exec "$id" -- sh -c 'exit 3' >/dev/null && echo 0 || echo $?)" "its exit code"
    same python3 "$(exec_in "$id" 'basename $(command -v python3)')" "what the API runs"
    same "alice-web.$ATOLL_CLUSTER_CONTENT_DOMAIN" "$(t get sandbox alice -o 'jsonpath={.status.hosts.web}')" "its host name"
}

its_host_names_answer() {
    wanted="<h1>The page of alice</h1>" eventually 30 answers alice-web /
    wanted='{"status": "well"}' eventually 30 answers alice-api /status.json
    same 404 "$(content_status alice-web /status.json)" "what is the other port's"
    same 404 "$(content_status alice-shell /)" "a port that has no name"
}

# An object that is made anew finds what the owner had, and nothing is put there again.
what_is_at_home_stays() {
    local id
    exec_in "$(t get sandbox alice -o 'jsonpath={.status.id}')" 'echo "<h1>Changed</h1>" >/home/user/web/index.html; rm /home/user/.bashrc; touch /tmp/gone'
    t delete sandbox alice --timeout=90s
    same 403 "$(content_status alice-web /)" "a host name that leads nowhere"
    example | kubectl apply -f -
    running alice
    wanted="<h1>Changed</h1>" eventually 30 answers alice-web /
    id=$(t get sandbox alice -o 'jsonpath={.status.id}')
    same "" "$(t get pod "$id-0" -o 'jsonpath={.spec.initContainers}')" "what fills volumes"
    exec_in "$id" 'test ! -e /tmp/gone && test ! -e /home/user/.bashrc'
}

# WebSocket, events as they come, and much in both directions; on a port without a name.
streams_come_through() {
    local id
    id=$(t get sandbox alice -o 'jsonpath={.status.id}')
    api "/api/v1/sandboxes/$id/files?path=/tmp/answers.py" -X PUT --data-binary "@$here/answers.py" -f -o /dev/null
    exec_in "$id" 'setsid python3 /tmp/answers.py 9000 >/tmp/answers.log 2>&1 </dev/null &'
    wanted="hello []" eventually 30 answers "9000-$id" /
    # A key that nobody needs here goes no further, either.
    same "hello []" "$(content "9000-$id" / -H "X-API-Key: $(admin_key)")" "what the sandbox sees of a key"
    client events "9000-$id"
    client echo "9000-$id"
    client body "9000-$id"
    t delete sandbox alice --timeout=90s
    t delete pvc home-alice
}

# The example's template with the stand-in's image, and less set aside than two nodes of this machine have.
desktop_template() {
    sed "s|docker.io/accetto/.*|$ATOLL_CLUSTER_REGISTRY/desktop:1|; s|tier: standard|requests: {cpu: 100m, memory: 256Mi}|" \
        examples/templates/desktop.yaml | kubectl apply -f -
}

# The calls as they are documented; who calls is in the settings of curl, as anybody's may be.
word_for_word() {
    printf 'header = "X-API-Key: %s"\ncacert = "%s"\nresolve = "api.%s:443:%s"\nsilent\nshow-error\nmax-time = 120\n' \
        "$(admin_key)" "$ATOLL_CLUSTER_CA" "$ATOLL_CLUSTER_DOMAIN" "$ATOLL_CLUSTER_TRAEFIK" >"$work/.curlrc"
    CURL_HOME=$work bash -c "${1//\{domain\}/$ATOLL_CLUSTER_DOMAIN}"
}
call() { word_for_word "curl -X $1 https://api.{domain}/v1/sandbox/$2"; }
call_status() { word_for_word "curl -o /dev/null -w '%{http_code}' -X $1 https://api.{domain}/v1/sandbox/$2"; }
call_is() { [ "$(call_status "$1" "$2")" = "$3" ]; }

each_user_has_a_sandbox() {
    local made id again
    desktop_template
    made=$(call POST alice)
    echo "$made"
    id=$(member "$made" 'it["id"]')
    same "alice running 6901 3000" "$(member "$made" '"%s %s %s %s" % (it["userId"], it["phase"], it["ports"]["vnc"], it["ports"]["api"])')" "the answer"
    same "https://alice-vnc.$ATOLL_CLUSTER_CONTENT_DOMAIN" "$(member "$made" 'it["urls"]["vnc"]')" "the desktop's address"
    same "headless /home/headless" "$(exec_in "$id" 'echo $(id -un) $PWD')" "whose it is"
    exec_in "$id" 'echo kept >note'
    same 200 "$(call_status POST alice)" "the same call again"
    same "$id" "$(member "$(call GET alice)" 'it["id"]')" "the sandbox that is got"
    for each in "stop stopped" "start running" "restart running"; do
        again=$(call POST "alice/${each% *}")
        same "$id ${each#* }" "$(member "$again" 'it["id"] + " " + it["phase"]')" "after $each"
    done
    same kept "$(exec_in "$id" 'cat note')" "what was at home"
    same 204 "$(call_status DELETE alice)" "the deletion"
    # While the first is still going.
    again=$(call POST alice)
    same kept "$(exec_in "$(member "$again" 'it["id"]')" 'cat note')" "what was at home before"
}

# A page without a key, and the one to the API that whoever has the link sees.
the_desktop_is_seen_in_a_browser() {
    local id token shots=target/test-logs
    id=$(member "$(call GET alice)" 'it["id"]')
    same 403 "$(content_status alice-vnc /vnc.html)" "a desktop, for nobody"
    same 200 "$(content_status alice-vnc /vnc.html -H "X-API-Key: $(admin_key)")" "a desktop, for a key"
    # What the user runs on the other port.
    exec_in "$id" 'mkdir -p web; echo mine >web/index.html; setsid python3 -m http.server --directory web 3000 >/dev/null 2>&1 </dev/null &'
    wanted=mine eventually 30 answers alice-api / -H "X-API-Key: $(admin_key)"
    command -v chromium >/dev/null || { skip "there is no chromium; ./test installs it" && return 0; }
    token=$(member "$(api "/api/v1/sandboxes/$id/links" -H 'Content-Type: application/json' -d '{"port": "vnc"}')" 'it["token"]')
    mkdir -p "$shots"
    # The page may be there before the display: it tries again.
    ATOLL_CLUSTER_SPKI=$(openssl x509 -in "$ATOLL_CLUSTER_DIR/pki/wildcard.crt" -noout -pubkey |
        openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64) \
        "$here/browser.py" "https://alice-vnc.$ATOLL_CLUSTER_CONTENT_DOMAIN/vnc.html?autoconnect=1&reconnect=1&reconnect_delay=500&password=headless&atoll_token=$token" "$shots/desktop.png"
}

a_user_goes_with_everything() {
    same 204 "$(call_status DELETE 'alice?volumes=delete')" "the deletion"
    same 404 "$(call_status GET alice)" "what is left of it"
    eventually 30 no_claim
    kubectl -n "$platform" delete sandboxtemplate desktop
}
no_claim() { [ -z "$(t get pvc home-alice -o name --ignore-not-found)" ]; }
