# Makes images of one layer and pushes them, without any daemon. Sourced.
# shellcheck shell=bash

architecture() {
    case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) uname -m ;;
    esac
}

# blob LAYOUT FILE: the file becomes a blob of the layout; prints its digest.
blob() {
    local digest
    digest=$(sha256sum "$2" | cut -d ' ' -f 1)
    mv "$2" "$1/blobs/sha256/$digest"
    echo "sha256:$digest"
}

sizeof() { stat -c %s "$1/blobs/sha256/${2#sha256:}"; }

# layout LAYOUT ROOT CONFIG: an OCI image layout with the image `it`. ROOT is a directory, a tar file or one that zstd packed.
# What is not packed stays so: it never leaves this machine.
layout() {
    local at=$1 root=$2 settings=$3 kind=tar content layer image manifest
    mkdir -p "$at/blobs/sha256"
    if [ -d "$root" ]; then
        tar --numeric-owner --sort=name -C "$root" -cf "$at/layer" .
    else
        cp "$root" "$at/layer"
    fi
    if [[ $root == *.zst ]]; then
        kind=tar+zstd
        content=sha256:$(zstd -q -dc "$at/layer" | sha256sum | cut -d ' ' -f 1)
    fi
    layer=$(blob "$at" "$at/layer")
    cat >"$at/image" <<JSON
{"architecture": "$(architecture)", "os": "linux", "config": $settings, "rootfs": {"type": "layers", "diff_ids": ["${content:-$layer}"]}}
JSON
    image=$(blob "$at" "$at/image")
    cat >"$at/manifest" <<JSON
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "$image", "size": $(sizeof "$at" "$image")},
 "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.$kind", "digest": "$layer", "size": $(sizeof "$at" "$layer")}]}
JSON
    manifest=$(blob "$at" "$at/manifest")
    echo '{"imageLayoutVersion": "1.0.0"}' >"$at/oci-layout"
    cat >"$at/index.json" <<JSON
{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "$manifest",
 "size": $(sizeof "$at" "$manifest"), "annotations": {"org.opencontainers.image.ref.name": "it"}}]}
JSON
}

# push LAYOUT REFERENCE: to a registry that speaks plain HTTP; prints the reference with the digest that was pushed.
push() {
    skopeo copy --quiet --insecure-policy --preserve-digests --dest-tls-verify=false "oci:$1:it" "docker://$2" >&2
    echo "${2%:*}@$(sed -n 's/.*"digest": "\(sha256:[0-9a-f]*\)".*/\1/p' "$1/index.json" | head -n 1)"
}
