#!/usr/bin/env bash
# A node: run as the first process of a process namespace, in network, mount and host name namespaces of its own, it makes
# the place in which containerd and the kubelet find nothing of the machine's, and keeps them running. `node` starts it.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/cluster/lib.sh
. "$here/lib.sh"
# shellcheck source=tests/cluster/own_mounts.sh
. "$here/own_mounts.sh"
load "$1"
node=$2
address=$(node_address "$node")
state=$dir/$node
store=$data/$node

# The kubelet insists on writing these, which belong to the whole machine: it gets files. Where the kernel sees no other /proc
# than one with something mounted in it, it refuses a user namespace its own.
stand_in_for_sysctls() {
    local each
    mkdir -p "$state/proc"
    mount -t proc proc "$state/proc"
    for each in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1; do
        mkdir -p "$state/sysctl/${each%/*}"
        echo "${each#*=}" >"$state/sysctl/${each%=*}"
        mount --bind "$state/sysctl/${each%=*}" "/proc/sys/${each%=*}"
    done
}

own_place() {
    drop_mounts
    mount -t proc proc /proc
    stand_in_for_sysctls
    cover /run "$dir"
    cover /var/lib "$data"
    cover /var/log "$data"
    mount -t tmpfs -o mode=1777 tmpfs /tmp
    mkdir -p /run/netns /run/lock
    mount --make-rshared /
    hostname "$node"
    echo "nameserver $control" >"$state/resolv.conf"
}

own_network() {
    local key
    for key in net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 \
        net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1; do
        sysctl -qw "$key" || [[ $key == net.ipv6.* ]]
    done
    cat >"$state/cni/10-pods.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "ipMasq": false, "mtu": 1400, "ipam": {"type": "host-local", "dataDir": "$state/addresses",
    "ranges": [[{"subnet": "$(node_pods "$node")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}},
  {"type": "cluster-fixture", "socket": "$state/policy.sock"}]}
JSON
}

runtime() {
    local handler=$1 type=$2
    echo "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.$handler]"
    echo "  runtime_type = '$type'"
}

# Raising a process's claim to survive want of memory needs CAP_SYS_RESOURCE, which containers in machines often lack.
containerd_settings() {
    cat <<TOML
version = 3
root = '$store/containerd'
state = '$state/containerd'
oom_score = 0
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp']
[plugins.'io.containerd.server.v1.grpc']
  address = '$state/containerd.sock'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '$state/containerd.ttrpc'
[plugins.'io.containerd.internal.v1.opt']
  path = '$store/opt'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '$registry/pause:1'
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '$state/registries'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['$(cni_folder)', '$(dirname "$(command -v cluster-fixture)")']
  conf_dir = '$state/cni'
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc'
$(runtime runc io.containerd.runc.v2)
$(runtime kata-qemu io.containerd.runc.v2)
$(runtime runsc io.containerd.runsc.v1)
  pod_annotations = ['dev.gvisor.*']
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runsc.options]
  TypeUrl = 'io.containerd.runsc.v1.options'
  ConfigPath = '$state/runsc.toml'
TOML
}

cni_folder() { dirname "$(command -v host-local)"; }

kubelet_settings() {
    cat <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $address
healthzPort: 0
cgroupDriver: cgroupfs
cgroupRoot: /$name/$node
failCgroupV1: false
enforceNodeAllocatable: [pods]
oomScoreAdj: 0
maxOpenFiles: 20000
failSwapOn: false
containerRuntimeEndpoint: unix://$state/containerd.sock
podLogsDir: $store/pod-logs
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: $state/resolv.conf
authentication: {anonymous: {enabled: false}, webhook: {enabled: true, cacheTTL: 5s}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/$node.crt
tlsPrivateKeyFile: $pki/$node.key
evictionHard: {memory.available: 100Mi, nodefs.available: 64Mi, imagefs.available: 64Mi, nodefs.inodesFree: "1%"}
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
maxPods: 250
podPidsLimit: 1024
registryPullQPS: 0
serializeImagePulls: false
maxParallelImagePulls: 3
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 15
kubeAPIQPS: 50
kubeAPIBurst: 100
shutdownGracePeriod: 0s
volumePluginDir: $store/volume-plugins
userNamespaces: {idsPerPod: 65536}
YAML
}

proxy_settings() {
    cat <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $pki/kube-proxy.kubeconfig}
mode: iptables
hostnameOverride: $node
clusterCIDR: $pod_range
bindAddress: $address
healthzBindAddress: $address:10256
metricsBindAddress: $address:10249
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {syncPeriod: 30s, minSyncPeriod: 0s}
YAML
}

settings_of_components() {
    mkdir -p "$state/cni" "$state/registries/$registry" "$store/opt" "$state/registrations"
    containerd_settings >"$state/containerd.toml"
    printf 'server = "http://%s"\n[host."http://%s"]\n  capabilities = ["pull", "resolve"]\n' "$registry" "$registry" \
        >"$state/registries/$registry/hosts.toml"
    printf '[runsc_config]\n  platform = "systrap"\n' >"$state/runsc.toml"
    kubelet_settings >"$state/kubelet.yaml"
    proxy_settings >"$state/kube-proxy.yaml"
}

# keep COMPONENT COMMAND...: as a service manager would.
keep() {
    local component=$1
    shift
    while true; do
        "$@" >>"$logs/$node-$component.log" 2>&1 </dev/null || true
        echo "$component ended; again in a moment" >>"$logs/$node-$component.log"
        sleep 0.5
    done &
}

export AWS_EC2_METADATA_DISABLED=true
# shellcheck disable=SC2154 # lib.sh sets what `load` finds
own_place
settings_of_components
own_network
keep containerd containerd --config "$state/containerd.toml" --log-level info
keep policy cluster-fixture policy --kubeconfig="$pki/fixture.kubeconfig" --pods="$(node_pods "$node")" \
    --socket="$state/policy.sock" --registrations="$state/registrations"
keep kube-proxy kube-proxy --config="$state/kube-proxy.yaml"
until [ -S "$state/containerd.sock" ]; do sleep 0.05; done
keep kubelet kubelet --config="$state/kubelet.yaml" --kubeconfig="$pki/$node.kubeconfig" --hostname-override="$node" \
    --node-ip="$address" --root-dir="$store/kubelet" --cert-dir="$store/kubelet/pki" --runtime-cgroups=/
wait
