# For a process in a mount namespace of its own. Sourced by what runs there.
# shellcheck shell=bash

# drop_mounts: all but the root and the kernel's own file systems. A copy of somebody's mount would keep it busy.
drop_mounts() {
    local where
    while read -r where; do
        case $where in
        / | /proc | /proc/* | /sys | /sys/* | /dev | /dev/*) ;;
        *) umount -l "$(printf '%b' "$where")" 2>/dev/null || true ;;
        esac
    done < <(cut -d ' ' -f 2 /proc/self/mounts | tac)
}

# cover PLACE KEEP: an empty place of this namespace's own, with the folder KEEP, if it lies there, still in it.
cover() {
    local place=$1 keep=$2
    exec 7<"$keep"
    mount -t tmpfs -o mode=755 tmpfs "$place"
    if [[ $keep == "$place"/* ]]; then
        mkdir -p "$keep"
        mount --no-canonicalize --bind /proc/self/fd/7 "$keep"
    fi
    exec 7<&-
}
