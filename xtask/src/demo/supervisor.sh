#!/bin/sh
# What systemd would be on a real machine: starts the throw-away etcd apart from its caller, and
# stops it so that it is gone when this returns.
set -eu
home=@HOME@
etcd=@ETCD@

# /proc/PID/exe and not kill -0: a process that nobody has reaped yet is dead for our purpose.
runs() { [ -s "$home/etcd.pid" ] && [ -e "/proc/$(cat "$home/etcd.pid")/exe" ]; }

gone_within() {
    tenths=$(($1 * 10))
    while runs; do
        [ "$tenths" -gt 0 ] || return 1
        tenths=$((tenths - 1))
        sleep 0.1
    done
}

case "${1:-}" in
start)
    runs && exit 0
    rm -f "$home/etcd.pid"
    # The process writes its own number before it becomes etcd: there is never an etcd without one.
    setsid sh -c 'echo $$ >"$1/etcd.pid"; exec "$2" --config-file "$1/etcd.conf.yml"' sh "$home" "$etcd" \
        </dev/null >>"$home/etcd.log" 2>&1 &
    until [ -s "$home/etcd.pid" ]; do sleep 0.1; done
    ;;
stop)
    if runs; then
        kill -TERM "$(cat "$home/etcd.pid")"
        gone_within 30 || kill -KILL "$(cat "$home/etcd.pid")"
        gone_within 10
    fi
    rm -f "$home/etcd.pid"
    ;;
*)
    echo "usage: $0 start|stop" >&2
    exit 2
    ;;
esac
