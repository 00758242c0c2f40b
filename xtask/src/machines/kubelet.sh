#!/bin/sh
# A fake kubelet: a pod runs as long as its manifest is in the directory. etcd runs in its own root, mount and pid
# namespace, with the directories of its hostPath volumes. The API server is only a process.
set -eu

manifests=/etc/kubernetes/manifests
state=/run/kubelet
mkdir -p "$state"

log() { echo "$*" >>/var/log/kubelet.log; }

command_of() { sed -n '/^  - command:/,/^    image:/s/^    - //p' "$1"; }

start_etcd() {
    # As in a container, the programs are not those of the machine. They are in /opt/image.
    unshare --mount --pid --fork --kill-child sh -c '
        root=$1; shift
        mkdir -p "$root"
        mount -t tmpfs -o mode=755 tmpfs "$root"
        cd "$root"
        mkdir -p usr/local/bin usr/lib lib lib64 var/lib/etcd etc/kubernetes/pki/etcd proc machine
        for dir in usr/lib lib lib64; do mount --rbind "/$dir" "$dir"; done
        mount --bind /opt/image usr/local/bin
        mount --bind /mnt/disk/etcd var/lib/etcd
        mount --bind /etc/kubernetes/pki/etcd etc/kubernetes/pki/etcd
        mount -t proc proc proc
        pivot_root . machine
        exec /machine/usr/bin/env -i PATH=/usr/local/bin "$@"
    ' sh "$state/etcd-root" $(command_of "$manifests/etcd.yaml") >>/var/log/etcd.log 2>&1 &
}

start_kube_apiserver() { sleep infinity & }

# Sends SIGTERM to the pod's first process, and waits for it.
stop() {
    pid=$(cat "$state/$1")
    main=$(cat "/proc/$pid/task/$pid/children")
    kill -TERM ${main:-$pid}
    wait "$pid" || true
    rm "$state/$1"
}

while :; do
    for pod in etcd kube-apiserver; do
        if [ -f "$manifests/$pod.yaml" ] && [ ! -f "$state/$pod" ]; then
            case $pod in etcd) start_etcd ;; *) start_kube_apiserver ;; esac
            echo $! >"$state/$pod"
            log "started $pod"
        elif [ ! -f "$manifests/$pod.yaml" ] && [ -f "$state/$pod" ]; then
            stop "$pod"
            log "stopped $pod"
        fi
    done
    sleep 0.2
done
