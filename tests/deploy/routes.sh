# Cases of `routing: per-sandbox`: the operator writes a Service for each sandbox and a route for each of its named ports. Sourced by
# `installed`, after reached.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154 # what `installed` sets

# A sandbox for its owner alone, with a server behind each of its ports.
private_sandbox() {
    cat <<YAML
apiVersion: atoll.dev/v1alpha1
kind: Sandbox
metadata: {name: carol, namespace: $tenant}
spec:
  image: $ATOLL_CLUSTER_REGISTRY/base:latest
  owner: carol
  requests: {cpu: 20m, memory: 32Mi}
  ports: {web: 8000}
  volumes: {home: {path: /home/user, size: 16Mi}}
  startCommand: [sh, -c, "echo carol >index.html; python3 -m http.server 9000 & exec python3 -m http.server 8000"]
YAML
}
carol() { t get sandbox carol -o 'jsonpath={.status.id}'; }
keyed() { content "$@" -H "X-API-Key: $(admin_key)"; }
with_key() { [ "$(keyed "$1" /)" = carol ]; }

# Routes of single sandboxes, and no other, are the operator's.
routes_of_single_sandboxes() {
    local id route
    helm upgrade atoll "$chart" --namespace "$platform" --values "$work/values.yaml" --set routing=per-sandbox --wait --timeout 4m
    fails p get ingressroute atoll-gateway
    private_sandbox | kubectl apply -f -
    running carol
    id=$(carol)
    # One that was there before has its own by now, too.
    eventually 60 has_a_route "$id"
    eventually 60 has_a_route "$(t get sandbox kept -o 'jsonpath={.status.id}')"
    route=$(p get ingressroute "$id-web" -o json)
    same "Host(\`carol-web.$ATOLL_CLUSTER_CONTENT_DOMAIN\`) || Host(\`8000-$id.$ATOLL_CLUSTER_CONTENT_DOMAIN\`)" \
        "$(member "$route" 'it["spec"]["routes"][0]["match"]')" "its hosts"
    same "['websecure'] {}" "$(member "$route" '"%s %s" % (it["spec"]["entryPoints"], it["spec"]["tls"])')" "where it begins"
    same "$(t get pod "$id-0" -o 'jsonpath={.status.podIP}') 8000" \
        "$(t get endpointslices -l "kubernetes.io/service-name=$id" -o 'jsonpath={.items[0].endpoints[0].addresses[0]} {.items[0].ports[0].port}')" "its Service"
    says 'only in namespaces with the label' as operator -n "$platform" delete ingressroute atoll-api --dry-run=server
    says 'only in namespaces with the label' as operator -n "$platform" label ingressroute atoll-api atoll.dev/id=any --dry-run=server
}
has_a_route() { p get ingressroutes -o name -l "atoll.dev/id=$1" | grep -q .; }

single_routes_answer() {
    local id link
    id=$(carol)
    eventually 30 with_key carol-web
    same 403 "$(content_status carol-web /)" "a private port, for nobody"
    same 403 "$(content_status carol-web / -H 'X-API-Key: e2b_0')" "a private port, for another key"
    # Links lead to the port of the one sandbox.
    link=$(member "$(api "/api/v1/sandboxes/$id/links" -H 'Content-Type: application/json' -d '{"port": "web"}')" 'it["url"]')
    same carol "$(through_traefik "8000-$id.$ATOLL_CLUSTER_CONTENT_DOMAIN" "/${link#*/*/*/}" -L -c "$work/cookies")" "what a link opens"
    # Whatever has no name has no route, though it listens.
    same 404 "$(content_status "9000-$id" / -H "X-API-Key: $(admin_key)")" "a port without a name"
    grep -q 'page not found' <(keyed "9000-$id" /)
}

single_routes_wake() {
    t patch sandbox carol --type=merge -p '{"spec": {"state": "Stopped"}}'
    eventually 60 phase carol Stopped
    same carol "$(keyed carol-web / --max-time 60)" "what answers when it has woken"
    phase carol Running
}

single_routes_go() {
    local id
    id=$(carol)
    t delete sandbox carol --timeout=90s
    fails has_a_route "$id"
    fails t get service "$id"
    same 404 "$(content_status carol-web /)" "what is left of its host name"
    t delete pvc home-carol
    t delete sandbox kept --timeout=60s
    fails grep -q . <(p get ingressroutes -o name -l atoll.dev/id)
    t get pvc "$(t get pvc -o name -l atoll.dev/volume=home | sed 's|.*/||')"
}
