#!/bin/sh
# Builds a root file system from Debian packages and writes it to standard output as a tar archive. Runs in its own
# mount and process namespaces, so that nothing of it outlives it.
#   build.sh mmdebstrap|debootstrap|overlay SUITE PACKAGES OPTIONAL    in a directory with the files that are made for the build:
#   sources.list (for the build), image.list (for the image), apt.conf, dpkg.cfg, keyrings/, recipe.sh, files/ (as they are
#   to lie in the image), name (of the recipe), mirror, keyring, lowers (for overlay: the layers that it adds to)
set -eu
umask 022
build=$(dirname "$(readlink -f "$0")")

# What lets apt reach its sources the way it does on this machine. Only for the build.
prepare() {
    mkdir -p "$1/etc/apt/apt.conf.d" "$1/etc/apt/auth.conf.d" "$1/etc/dpkg/dpkg.cfg.d" "$1/etc/apt/keyrings"
    cp "$build/apt.conf" "$1/etc/apt/apt.conf.d/00build"
    cp "$build/dpkg.cfg" "$1/etc/dpkg/dpkg.cfg.d/trim-$(cat "$build/name")"
    for file in "$build"/keyrings/*; do
        if [ -f "$file" ]; then cp "$file" "$1/etc/apt/keyrings/"; fi
    done
    for file in /etc/apt/auth.conf /etc/apt/auth.conf.d/*.conf; do
        if [ -f "$file" ]; then cp "$file" "$1/etc/apt/auth.conf.d/build-$(basename "$file")"; fi
    done
}

# What lets pip reach its index the way it does on this machine, for the recipe's script.
own_pip() {
    : > "$1/pip.conf"
    home=$(getent passwd 0 | cut -d: -f6)
    for file in /etc/pip.conf "$home/.pip/pip.conf" "$home/.config/pip/pip.conf"; do
        if [ -f "$file" ]; then cp "$file" "$1/pip.conf"; fi
    done
    for file in /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"; do
        if [ -f "$file" ]; then cp "$file" "$1/certificates.crt" && break; fi
    done
}

# The recipe's own script, and then nothing of this machine stays.
finish() {
    if [ -d "$build/files" ]; then tar --owner=0 --group=0 -C "$build/files" -cf - . | tar --no-overwrite-dir -C "$1" -xf -; fi
    cp "$build/recipe.sh" "$1/recipe.sh"
    own_pip "$1"
    chroot "$1" env PIP_CONFIG_FILE=/pip.conf PIP_CERT=/certificates.crt /bin/sh -eu /recipe.sh >&2
    rm -f "$1/recipe.sh" "$1/pip.conf" "$1/certificates.crt" "$1"/etc/apt/apt.conf.d/00build "$1"/etc/apt/auth.conf.d/build-* "$1"/etc/apt/sources.list.d/*
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
    from_sources "$root"
    # Until ca-certificates is installed inside: the certificates that apt trusts on this machine.
    if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
        mkdir -p "$root/etc/ssl/certs"
        cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    fi
    install_in "$root" "$2" ""
    finish "$root"
    umount "$root/proc"
    pack "$root"
}

# What apt in a new root asks for its packages, as long as it is being built.
from_sources() {
    sed "s#$build/keyrings/#/etc/apt/keyrings/#g" "$build/sources.list" > "$1/etc/apt/sources.list"
    cp /etc/resolv.conf "$1/etc/resolv.conf"
}

install_in() {
    mount -t proc proc "$1/proc"
    export DEBIAN_FRONTEND=noninteractive
    chroot "$1" apt-get update >&2
    chroot "$1" apt-get -y --no-install-recommends dist-upgrade >&2
    packages=$(echo "$2" | tr , ' ')
    for package in $(echo "$3" | tr , ' '); do
        if chroot "$1" apt-cache show "$package" > /dev/null 2>&1; then packages="$packages $package"; fi
    done
    # shellcheck disable=SC2086 # the names are to be split
    chroot "$1" apt-get -y --no-install-recommends install $packages >&2
}

pack() {
    tar --numeric-owner --xattrs --xattrs-include='user.*' --xattrs-include='security.*' --exclude='./dev/*' -C "$1" -cf - .
}

# On top of another image: what is other than there becomes the layer.
with_overlay() {
    lowers=$(cat "$build/lowers")
    mkdir "$build/empty" "$build/before" "$build/upper" "$build/work" "$build/root"
    mount -t overlay -o "ro,lowerdir=$lowers:$build/empty" overlay "$build/before"
    # Nothing that only the kernel of this machine understands may be in the files.
    mount -t overlay -o "lowerdir=$lowers,upperdir=$build/upper,workdir=$build/work,redirect_dir=off,metacopy=off,index=off" \
        overlay "$build/root"
    prepare "$build/root"
    from_sources "$build/root"
    mount -t tmpfs -o mode=0755 tmpfs "$build/root/dev"
    for device in null zero full random urandom tty; do
        : > "$build/root/dev/$device"
        mount --bind "/dev/$device" "$build/root/dev/$device"
    done
    ln -s /proc/self/fd "$build/root/dev/fd"
    install_in "$build/root" "$1" "$2"
    umount -R "$build/root/dev"
    finish "$build/root"
    deletions
    umount "$build/root/proc" "$build/root"
    find "$build/upper" -type c -delete
    pack "$build/upper"
}

# Notes what is gone as archives of layers do.
deletions() {
    for tree in before root; do (cd "$build/$tree" && find . -xdev -print0 | LC_ALL=C sort -z > "$build/$tree.list"); done
    LC_ALL=C comm -z -23 "$build/before.list" "$build/root.list" | xargs -0 -r "$build/build.sh" gone
}

gone() {
    for path in "$@"; do
        if [ -d "$build/root/${path%/*}" ]; then
            mkdir -p "$build/upper/${path%/*}"
            : > "$build/upper/${path%/*}/.wh.${path##*/}"
        fi
    done
}

case "$1" in
    prepare | finish | gone) "$@" ;;
    mmdebstrap) with_mmdebstrap "$2" "$3" ;;
    overlay) with_overlay "$3" "$4" ;;
    debootstrap)
        keyring=$(cat "$build/keyring")
        with_debootstrap "$2" "$3"
        ;;
esac
