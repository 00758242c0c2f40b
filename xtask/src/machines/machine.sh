#!/bin/sh
# Runs in a new mount and network namespace: before a machine boots, and after it is off.
#
#   machine.sh boot NAME ROOT HOME    boots the tree ROOT without changing it: the machine writes to HOME
#   machine.sh sweep NAME             removes the machine's control groups
#   machine.sh try NAME               tries the first steps of a boot, and leaves nothing behind
set -eu

control_groups() {
    umount --recursive /sys/fs/cgroup 2>/dev/null || true
    # The devices of a new network namespace are visible only in a new /sys.
    mount -t sysfs sysfs /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
}

boot() {
    name=$1 root=$2 home=$3
    ip link set lo up
    control_groups
    # Two machines in one control group would stop each other's units.
    mkdir -p "/sys/fs/cgroup/$name"
    echo $$ >"/sys/fs/cgroup/$name/cgroup.procs"
    mkdir -p "$home/upper" "$home/work" "$home/root" "$home/var"
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$home/upper,workdir=$home/work" "$home/root"
    # /var is on the disk itself: real machines do not have their data on an overlay.
    exec systemd-nspawn --quiet --machine="$name" --directory="$home/root" --bind="$home/var:/var" \
        --boot --register=no --keep-unit --console=pipe
}

sweep() {
    control_groups
    [ ! -d "/sys/fs/cgroup/$1" ] || find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} +
}

try() {
    control_groups
    mkdir "/sys/fs/cgroup/$1"
    rmdir "/sys/fs/cgroup/$1"
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/lower /mnt/upper /mnt/work
    mount -t overlay overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/lower
}

command=$1
shift
"$command" "$@"
