# The control plane and what stands beside the nodes, each component one process in the cluster's own network namespace.
# Sourced by `up` and `control`.
# shellcheck shell=bash disable=SC2034,SC2154 # lib.sh sets the names

components=(etcd apiserver controller-manager scheduler registry provisioner outside traefik)

# begin COMPONENT: starts it as `up` does.
begin() { "begin_$1"; }

begin_etcd() {
    launch etcd "$name" etcd --name "$name" --data-dir "$data/etcd" --logger zap --log-outputs stderr --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster "$name=http://127.0.0.1:2380"
}

# Who did what and when, without what was said. Leases and events would be most of it.
audit_policy() {
    cat <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi*", "/apis*", "/api*", "/metrics"]}
- {level: Metadata}
YAML
}

begin_apiserver() {
    audit_policy >"$dir/audit-policy.yaml"
    keep apiserver "$name" kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address="$control" --secure-port=6443 \
        --advertise-address="$control" --service-cluster-ip-range="$service_range" --allow-privileged=true \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --profiling=false \
        --enable-aggregator-routing=true --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
        --client-ca-file="$pki/ca.crt" --kubelet-certificate-authority="$pki/ca.crt" \
        --kubelet-client-certificate="$pki/apiserver-to-kubelet.crt" --kubelet-client-key="$pki/apiserver-to-kubelet.key" \
        --kubelet-preferred-address-types=InternalIP --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-signing-key-file="$pki/accounts.key" --service-account-key-file="$pki/accounts.pub" \
        --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=front-proxy \
        --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
        --requestheader-username-headers=X-Remote-User --proxy-client-cert-file="$pki/front-proxy.crt" \
        --proxy-client-key-file="$pki/front-proxy.key" --audit-policy-file="$dir/audit-policy.yaml" \
        --audit-log-path="$logs/audit.log" --audit-log-maxsize=200 --audit-log-maxbackup=1 --audit-log-mode=batch
}

# The network of pods is laid by `up`, not from the nodes' records. A node that is gone is noticed sooner than by default.
begin_controller-manager() {
    local as=$pki/controller-manager.kubeconfig
    launch controller-manager "$name" kube-controller-manager --kubeconfig="$as" --authentication-kubeconfig="$as" \
        --authorization-kubeconfig="$as" --bind-address="$control" --tls-cert-file="$pki/apiserver.crt" \
        --tls-private-key-file="$pki/apiserver.key" --use-service-account-credentials --leader-elect=false \
        --service-account-private-key-file="$pki/accounts.key" --root-ca-file="$pki/ca.crt" \
        --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" --allocate-node-cidrs=false \
        --cluster-cidr="$pod_range" --service-cluster-ip-range="$service_range" --pvclaimbinder-sync-period=2s \
        --node-monitor-period=2s --node-monitor-grace-period=15s --kube-api-qps=100 --kube-api-burst=200
}

begin_scheduler() {
    local as=$pki/scheduler.kubeconfig
    launch scheduler "$name" kube-scheduler --kubeconfig="$as" --authentication-kubeconfig="$as" \
        --authorization-kubeconfig="$as" --bind-address="$control" --tls-cert-file="$pki/apiserver.crt" \
        --tls-private-key-file="$pki/apiserver.key" --leader-elect=false
}

# What the cache holds lies below what is pushed into this cluster, so that the cache stays as it is.
begin_registry() {
    mkdir -p "$data/registry/"{upper,work,store}
    cat >"$dir/registry.yaml" <<YAML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $data/registry/store}, delete: {enabled: true}}
http: {addr: "$registry"}
YAML
    # shellcheck disable=SC2016 # the inner shell is to expand them
    launch registry "$name" unshare --mount --propagation private bash -ec '
        . "$1/own_mounts.sh" && drop_mounts
        mount -t overlay -o "lowerdir=$2,upperdir=$3/upper,workdir=$3/work" overlay "$3/store"
        exec docker-registry serve "$4"' registry "$here" "$images" "$data/registry" "$dir/registry.yaml"
}

begin_provisioner() {
    launch provisioner "$name" cluster-fixture provision --kubeconfig="$pki/fixture.kubeconfig" --root="$data/volumes"
}

# It plays the internet.
begin_outside() {
    launch outside "$name" cluster-fixture outside --listen="$outside:80" --listen="$metadata:80"
}

begin_traefik() {
    cat >"$dir/traefik.yaml" <<YAML
tls:
  certificates: [{certFile: $pki/wildcard.crt, keyFile: $pki/wildcard.key}]
  stores: {default: {defaultCertificate: {certFile: $pki/wildcard.crt, keyFile: $pki/wildcard.key}}}
YAML
    launch traefik "$name" env KUBECONFIG="$pki/traefik.kubeconfig" traefik --global.checknewversion=false \
        --global.sendanonymoususage=false --entrypoints.web.address="$control:80" --entrypoints.websecure.address="$control:443" \
        --entrypoints.websecure.http.tls=true --providers.file.filename="$dir/traefik.yaml" --providers.kubernetescrd=true \
        --providers.kubernetescrd.allowcrossnamespace=true --providers.kubernetescrd.allowemptyservices=true \
        --providers.providersthrottleduration=200ms --log.level=INFO --ping=true --metrics.prometheus=true \
        --entrypoints.traefik.address="$control:8080" --api.insecure=true
}
