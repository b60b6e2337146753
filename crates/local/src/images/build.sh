#!/bin/sh
# Builds a root file system from Debian packages and writes it to standard output as a tar archive. Runs in its own
# mount and process namespaces, so that nothing of it outlives it.
#   build.sh mmdebstrap|debootstrap SUITE PACKAGES    in a directory with the files that are made for the build:
#   sources.list (for the build), image.list (for the image), apt.conf, dpkg.cfg, keyrings/, recipe.sh, mirror, keyring
set -eu
umask 022
build=$(dirname "$(readlink -f "$0")")

# What lets apt reach its sources the way it does on this machine. Only for the build.
prepare() {
    mkdir -p "$1/etc/apt/apt.conf.d" "$1/etc/apt/auth.conf.d" "$1/etc/dpkg/dpkg.cfg.d" "$1/etc/apt/keyrings"
    cp "$build/apt.conf" "$1/etc/apt/apt.conf.d/00build"
    cp "$build/dpkg.cfg" "$1/etc/dpkg/dpkg.cfg.d/trim"
    for file in "$build"/keyrings/*; do
        if [ -f "$file" ]; then cp "$file" "$1/etc/apt/keyrings/"; fi
    done
    for file in /etc/apt/auth.conf /etc/apt/auth.conf.d/*.conf; do
        if [ -f "$file" ]; then cp "$file" "$1/etc/apt/auth.conf.d/build-$(basename "$file")"; fi
    done
}

# The recipe's own script, and then nothing of this machine stays.
finish() {
    cp "$build/recipe.sh" "$1/recipe.sh"
    chroot "$1" /bin/sh -eu /recipe.sh >&2
    rm -f "$1/recipe.sh" "$1"/etc/apt/apt.conf.d/00build "$1"/etc/apt/auth.conf.d/build-* "$1"/etc/apt/sources.list.d/*
    rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
    cp "$build/image.list" "$1/etc/apt/sources.list"
    rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/cache/apt/archives/*.deb "$1"/var/log/apt
    rm -f "$1"/var/log/*.log "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old
    for file in hostname hosts resolv.conf machine-id; do
        rm -f "$1/etc/$file"
        : > "$1/etc/$file"
    done
}

with_mmdebstrap() {
    mkdir -p "$build/tmp" "$build/skeleton/dev"
    # It leaves /dev out with the devices in it; a sandbox needs the directory. One header is one block.
    tar --format=ustar --owner=0 --group=0 --numeric-owner -C "$build/skeleton" -cf - ./dev | head -c 512
    TMPDIR="$build/tmp" mmdebstrap --mode=root --variant=minbase --format=tar --skip=output/dev \
        --dpkgopt="$build/dpkg.cfg" --include="$2" --setup-hook="'$build/build.sh' prepare \"\$1\"" \
        --customize-hook="'$build/build.sh' finish \"\$1\"" "$1" - "$build/sources.list"
}

with_debootstrap() {
    root="$build/root"
    debootstrap --variant=minbase --merged-usr ${keyring:+--keyring="$keyring"} "$1" "$root" "$(cat "$build/mirror")" >&2
    prepare "$root"
    sed "s#$build/keyrings/#/etc/apt/keyrings/#g" "$build/sources.list" > "$root/etc/apt/sources.list"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    # Until ca-certificates is installed inside: the certificates that apt trusts on this machine.
    if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
        mkdir -p "$root/etc/ssl/certs"
        cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    fi
    mount -t proc proc "$root/proc"
    export DEBIAN_FRONTEND=noninteractive
    chroot "$root" apt-get update >&2
    chroot "$root" apt-get -y --no-install-recommends dist-upgrade >&2
    # shellcheck disable=SC2046 # the names are to be split
    chroot "$root" apt-get -y --no-install-recommends install $(echo "$2" | tr , ' ') >&2
    finish "$root"
    umount "$root/proc"
    tar --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' -C "$root" -cf - .
}

case "$1" in
    prepare | finish) "$1" "$2" ;;
    mmdebstrap) with_mmdebstrap "$2" "$3" ;;
    debootstrap)
        keyring=$(cat "$build/keyring")
        with_debootstrap "$2" "$3"
        ;;
esac
