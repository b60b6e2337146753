# Cases of E2B's clients, unmodified, through Traefik on the installation of `installed`, by host names and over TLS. Sourced by it.
# shellcheck shell=bash
# shellcheck disable=SC2154 # what `installed` sets

# The template that clients name when their callers name none, small enough for many at once on two nodes of one machine.
base_template() {
    kubectl apply -f - <<YAML
apiVersion: atoll.dev/v1alpha1
kind: SandboxTemplate
metadata: {name: base, namespace: $platform}
spec:
  image: $ATOLL_CLUSTER_REGISTRY/base:latest
  requests: {cpu: 50m, memory: 64Mi}
  memory: 1Gi
  cpu: "1"
YAML
}

# another_key TENANT: a member's.
another_key() {
    member "$(api /api/v1/keys -H 'Content-Type: application/json' -d "{\"name\": \"conformance\", \"tenant\": \"$1\"}")" 'it["secret"]'
}

# Not among the cases that are tried unless it is named: tests/deploy/installed … clients_of_e2b_work_unmodified.
# The newest clients, each once; what a cluster cannot do yet says so (docs/compatibility.md).
clients_of_e2b_work_unmodified() {
    local clients=(--newest)
    [ -z "${ATOLL_TEST_CLIENTS:-}" ] || clients=(--clients "$ATOLL_TEST_CLIENTS")
    base_template
    E2B_DOMAIN=$ATOLL_CLUSTER_DOMAIN E2B_API_KEY=$(another_key default) E2B_OTHER_API_KEY=$(another_key strict) \
        CONFORMANCE_ADDRESS=$ATOLL_CLUSTER_TRAEFIK CONFORMANCE_CA=$ATOLL_CLUSTER_CA \
        CONFORMANCE_LACKS='snapshots fork templates cli cold-pauses' CONFORMANCE_DOMAINS="$ATOLL_CLUSTER_DOMAIN $ATOLL_CLUSTER_CONTENT_DOMAIN" \
        tests/conformance/run "${clients[@]}" --jobs 2 ${ATOLL_TEST_DOCS:+--docs "$ATOLL_TEST_DOCS"}
    kubectl -n "$platform" delete sandboxtemplate base
}
