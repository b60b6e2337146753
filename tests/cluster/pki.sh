# The cluster's certificates: one authority, a certificate for each who speaks. Sourced by `up`.
# shellcheck shell=bash disable=SC2154 # lib.sh sets the names

authority() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/ca.key"
    openssl req -x509 -new -key "$pki/ca.key" -subj "/CN=$name" -days 3650 -out "$pki/ca.crt" \
        -addext keyUsage=critical,keyCertSign,cRLSign -addext basicConstraints=critical,CA:TRUE
    openssl genrsa -out "$pki/accounts.key" 2048
    openssl rsa -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub"
}

# certificate NAME SUBJECT [ALTERNATIVES]
certificate() {
    local at=$pki/$1
    {
        echo keyUsage=critical,digitalSignature,keyEncipherment
        echo extendedKeyUsage=serverAuth,clientAuth
        [ -z "${3:-}" ] || echo "subjectAltName=$3"
    } >"$at.ext"
    openssl ecparam -name prime256v1 -genkey -noout -out "$at.key"
    openssl req -new -key "$at.key" -subj "$2" -out "$at.csr"
    openssl x509 -req -in "$at.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -set_serial "0x$(openssl rand -hex 8)" \
        -days 3650 -extfile "$at.ext" -out "$at.crt"
    rm "$at.csr" "$at.ext"
}

# kubeconfig NAME FILE: for the certificate of that name.
kubeconfig() {
    cat >"$2" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: $name
  cluster: {server: "https://$control:6443", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}
contexts:
- name: $name
  context: {cluster: $name, user: $1}
current-context: $name
YAML
}

certificates() {
    local node
    mkdir -m 700 "$pki"
    authority
    certificate apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
DNS:kubernetes.default.svc.cluster.local,IP:$control,IP:$net.96.1" &
    certificate apiserver-to-kubelet /O=system:masters/CN=apiserver-to-kubelet &
    certificate front-proxy /CN=front-proxy &
    certificate admin /O=system:masters/CN=admin &
    certificate fixture /O=system:masters/CN=cluster-fixture &
    certificate controller-manager /CN=system:kube-controller-manager &
    certificate scheduler /CN=system:kube-scheduler &
    certificate kube-proxy /CN=system:kube-proxy &
    certificate traefik /CN=traefik &
    certificate wildcard "/CN=$domain" "DNS:$domain,DNS:*.$domain,DNS:$content_domain,DNS:*.$content_domain" &
    for node in "${node_names[@]}"; do
        certificate "$node" "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$(node_address "$node")" &
    done
    wait
    for node in fixture controller-manager scheduler kube-proxy traefik "${node_names[@]}"; do
        kubeconfig "$node" "$pki/$node.kubeconfig"
    done
    kubeconfig admin "$dir/kubeconfig"
    chmod 600 "$dir/kubeconfig"
}
