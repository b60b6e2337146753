# Cases of /api/kata and of the executor inside its containers: the documented calls, word for word, through Traefik. Sourced by
# `installed`, after reached.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2016 # what `installed` sets, and words for other shells

# kata ARGUMENTS...: what `curl` is told, in its words.
kata() { word_for_word "curl $*"; }
# events TEXT EXPRESSION: of `all`, a stream's events, which are nothing but lines of data.
events() {
    /usr/bin/python3 -c '
import json, sys
lines = [line for line in sys.stdin.read().splitlines() if line]
assert all(line.startswith("data: ") for line in lines), lines
all = [json.loads(line[6:]) for line in lines]
print(eval(sys.argv[1]))
' "$2" <<<"$1"
}
said() { events "$1" '"|".join(it["data"] for it in all if it["eventType"] == "output" and it["stream"] == "Stdout")'; }
# The name and the id of the container that the cases share.
named() { cat "$work/container"; }
identified() { sed 's/^kata-sandbox-//' "$work/container"; }

containers_are_made_as_a_stream() {
    local told name info
    told=$(kata '-N -X POST https://api.{domain}/api/kata -H "Content-Type: application/json"' -d "'"'{
  "labels": {
    "environment": "sandbox",
    "project": "test"
  },
  "environmentVariables": {
    "KEY": "value"
  },
  "command": ["/bin/sh"],
  "args": ["-c", "echo Hello && sleep 3600"],
  "resources": {
    "requests": {
      "memoryMi": 256,
      "cpuMillicores": 500
    },
    "limits": {
      "memoryMi": 1024,
      "cpuMillicores": 2000
    }
  },
  "waitForReady": true
}'"'")
    echo "$told"
    same "created waiting healthcheck ready" "$(events "$told" '" ".join(sorted({it["eventType"] for it in all}, key=[it["eventType"] for it in all].index))')" "the events"
    same "Pending True True" "$(events "$told" 'all[0]["phase"], all[-2]["isHealthy"], all[-1]["elapsedSeconds"] > 0' | tr -d "(,')")" "what they say"
    name=$(events "$told" 'all[-1]["podName"]')
    echo "$name" >"$work/container"
    info=$(t get pod "$(identified)" -o 'jsonpath={.spec.runtimeClassName} {.status.podIP} {.spec.nodeName}')
    same "kata-qemu $(events "$told" 'all[-1]["containerInfo"]["podIP"] + " " + all[-1]["containerInfo"]["nodeName"]')" "$info" "its pod"
    same "$(events "$told" 'all[-2]["podIP"]')" "$(t get pod "$(identified)" -o 'jsonpath={.status.podIP}')" "the address that was asked for health"
    same "500m 256Mi 2 1Gi" "$(t get pod "$(identified)" -o 'jsonpath={range .spec.containers[0].resources}{.requests.cpu} {.requests.memory} {.limits.cpu} {.limits.memory}{end}')" "its sizes"
}

containers_are_listed_and_got() {
    local name listed
    name=$(named)
    listed=$(kata 'https://api.{domain}/api/kata')
    same "1 $name kata-manager kata test Running True" \
        "$(member "$listed" '" ".join(map(str, (len(it), it[0]["name"], it[0]["labels"]["app"], it[0]["labels"]["runtime"], it[0]["labels"]["project"], it[0]["phase"], it[0]["isReady"])))')" "the list"
    for each in "$name" "$(identified)"; do
        same "$name" "$(member "$(kata "https://api.{domain}/api/kata/$each")" 'it["name"]')" "one"
    done
    eventually 30 greeted
    same 404 "$(kata -o /dev/null -w '%{http_code}' 'https://api.{domain}/api/kata/kata-sandbox-nobody')" "nobody's"
}
# What its own command wrote.
greeted() { api "/api/v1/sandboxes/$(identified)/logs" | grep -q Hello; }

execute() { kata "-N -X POST https://api.{domain}/api/kata/$1/execute -H 'Content-Type: application/json' -d '$2'"; }

commands_are_streamed() {
    local name told
    name=$(named)
    told=$(execute "$name" '{"command": "echo $KEY; echo err >&2; exit 3", "timeoutSeconds": 300}')
    same value "$(said "$told")" "the output"
    same "err" "$(events "$told" '[it["data"] for it in all if it.get("stream") == "Stderr"][0]')" "the other output"
    same "completed 3 False" "$(events "$told" 'all[-1]["eventType"], all[-1]["exitCode"], all[-1]["timedOut"]' | tr -d "(),'")" "the end"
    told=$(execute "$name" '{"command": "sleep 1234 & sleep 1234", "timeoutSeconds": 1}')
    same "137 True" "$(events "$told" 'all[-1]["exitCode"], all[-1]["timedOut"]' | tr -d '(),')" "a command whose time is up"
    same 20000 "$(said "$(execute "$name" '{"command": "seq 1 20000"}')" | tr '|' '\n' | wc -l)" "many lines"
}

a_terminal_is_opened() {
    "$here/through.py" terminal "api.$ATOLL_CLUSTER_DOMAIN" "/api/kata/$(named)/terminal" "X-API-Key: $(admin_key)"
}

# The executor itself, on its port: from inside, as its clients reach it there, and by its host name.
the_executor_answers() {
    local id ask='{"command": "echo $((6 * 7)); exit 5", "timeoutSeconds": 10}' inside outside
    id=$(identified)
    exec_in "$id" 'curl -fsS http://127.0.0.1:8666/healthz'
    inside=$(exec_in "$id" "curl -fsSN http://127.0.0.1:8666/api/execute -H 'Content-Type: application/json' -d '$ask'")
    outside=$(content "8666-$id" /api/execute -fN -H "X-API-Key: $(admin_key)" -H 'Content-Type: application/json' -d "$ask")
    for each in "$inside" "$outside"; do
        same "event: OutputEvent
event: CompletedEvent" "$(grep '^event: ' <<<"$each")" "the names of the executor's events"
        same "OutputEvent Stdout 42 CompletedEvent 5 False True" \
            "$(events "$(grep '^data: ' <<<"$each")" 'all[0]["$type"], all[0]["stream"], all[0]["data"], all[1]["$type"], all[1]["exitCode"], all[1]["timedOut"], all[0]["pid"] == all[1]["pid"]' | tr -d "(,')")" \
            "what they tell"
    done
    same 200 "$(content_status "8666-$id" /healthz -H "X-API-Key: $(admin_key)")" "its health"
    same 403 "$(content_status "8666-$id" /healthz)" "its health, for nobody"
    # Past Traefik and gateway nobody reaches it.
    fails curl -s --max-time 2 "http://$(t get pod "$id" -o 'jsonpath={.status.podIP}'):8666/healthz"
}

users_are_allocated_containers() {
    local first pool
    allocate() { kata '-X POST https://api.{domain}/api/kata/allocate -H "Content-Type: application/json"' -d "'"'{"userId": "bob@example.com"}'"'"; }
    first=$(member "$(allocate)" 'it["name"]')
    same "$first" "$(member "$(allocate)" 'it["name"]')" "the same again"
    pool=$(kata 'https://api.{domain}/api/kata/pool/status')
    same "0 1 1 2" "$(member "$pool" '" ".join(str(it[key]) for key in ("warm", "allocated", "manual", "total"))')" "the pool"
    same 200 "$(kata -o /dev/null -w '%{http_code}' 'https://api.{domain}/healthz')" "the manager's health"
    grep -qi '<html' <(kata 'https://api.{domain}/scalar/v1')
}

containers_are_deleted() {
    local name
    name=$(named)
    same "{\"success\":true,\"message\":\"Container $name deleted successfully\",\"podName\":\"$name\"}" \
        "$(kata "-X DELETE https://api.{domain}/api/kata/$name")" "the answer"
    eventually 60 container_is_gone
    same "1 0" "$(member "$(kata '-X DELETE https://api.{domain}/api/kata')" '"%s %s" % (it["deletedCount"], it["failedCount"])')" "all that are left"
    eventually 60 no_sandboxes
}
container_is_gone() { [ "$(kata -o /dev/null -w '%{http_code}' "https://api.{domain}/api/kata/$(named)")" = 404 ]; }
no_sandboxes() { [ -z "$(t get sandboxes,pods -o name)" ]; }
