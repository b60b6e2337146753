# Shared by ./run and ./test: what both need of the machine. Sourced, never run.
# shellcheck shell=bash

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$1: $2"
    exit 1
}

# A root shell often lacks the cargo that its user has under sudo.
find_cargo() {
    local owner_home
    if ! command -v cargo >/dev/null && [ -n "${SUDO_USER:-}" ]; then
        owner_home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        PATH="$PATH:$owner_home/.cargo/bin"
    fi
    command -v cargo >/dev/null || die "$1" "cargo is not installed; get Rust 1.95 or newer from https://rustup.rs"
}

# need_packages NAME "COMMAND PACKAGE WHY..." ...: installs the packages whose command is missing, saying why.
need_packages() {
    local who=$1 line program package why
    local missing=()
    shift
    PATH="$PATH:/usr/sbin:/sbin"
    for line in "$@"; do
        read -r program package why <<<"$line"
        if ! command -v "$program" >/dev/null && [ ! -e "$program" ]; then
            missing+=("$package")
            say "$who: installing $package: $why"
        fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "$who" "no apt-get here; install by hand: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null 2>&1 && return 0
    apt-get update -qq </dev/null || say "$who: apt-get update failed; trying with the lists that are there"
    apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >&2 ||
        die "$who" "apt-get could not install ${missing[*]}; the lines above say why"
}
