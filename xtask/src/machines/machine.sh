#!/bin/sh
# What must happen in a mount and network namespace of its own before a machine can boot, and after it is off.
#
#   machine.sh boot NAME ROOT HOME    boots the tree ROOT, which stays as it is: what the machine writes goes to HOME
#   machine.sh sweep NAME             removes the control groups that the machine left
#   machine.sh try NAME               the first steps of a boot, and nothing is left of them
set -eu

control_groups() {
    umount --recursive /sys/fs/cgroup 2>/dev/null || true
    # A new network namespace shows its devices only in a /sys of its own.
    mount -t sysfs sysfs /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
}

boot() {
    name=$1 root=$2 home=$3
    ip link set lo up
    control_groups
    # Two machines in one control group would end each other's units.
    mkdir -p "/sys/fs/cgroup/$name"
    echo $$ >"/sys/fs/cgroup/$name/cgroup.procs"
    mkdir -p "$home/upper" "$home/work" "$home/root" "$home/var"
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$home/upper,workdir=$home/work" "$home/root"
    # Data lies on the disk itself, and not on a file system that only machines of this kind have.
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

verb=$1
shift
"$verb" "$@"
