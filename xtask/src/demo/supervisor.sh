#!/bin/sh
# Does what systemd does on a real machine: starts the temporary etcd independently of the caller, and
# stops it. After `stop` returns, etcd has exited.
set -eu
home=@HOME@
etcd=@ETCD@

# Checks /proc/PID/exe instead of `kill -0`: a zombie process counts as exited.
is_running() { [ -s "$home/etcd.pid" ] && [ -e "/proc/$(cat "$home/etcd.pid")/exe" ]; }

exits_within() {
    tenths=$(($1 * 10))
    while is_running; do
        [ "$tenths" -gt 0 ] || return 1
        tenths=$((tenths - 1))
        sleep 0.1
    done
}

case "${1:-}" in
start)
    is_running && exit 0
    rm -f "$home/etcd.pid"
    # The process writes its pid before it executes etcd, so there is never an etcd without a pid file.
    setsid sh -c 'echo $$ >"$1/etcd.pid"; exec "$2" --config-file "$1/etcd.conf.yml"' sh "$home" "$etcd" \
        </dev/null >>"$home/etcd.log" 2>&1 &
    until [ -s "$home/etcd.pid" ]; do sleep 0.1; done
    ;;
stop)
    if is_running; then
        kill -TERM "$(cat "$home/etcd.pid")"
        exits_within 30 || kill -KILL "$(cat "$home/etcd.pid")"
        exits_within 10
    fi
    rm -f "$home/etcd.pid"
    ;;
*)
    echo "usage: $0 start|stop" >&2
    exit 2
    ;;
esac
