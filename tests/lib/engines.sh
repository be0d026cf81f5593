# Real clients, each in a temporary folder of its own: a Docker engine (dockerd 20.10 of Debian), podman and skopeo.
# Source after common.sh, then:
#
#     engines_start [NAME...]         # NAMEs resolve to ENGINES_ADDRESS (127.0.0.1) for the engines; starts dockerd
#     engines_trust HOST:PORT CA.pem  # the engines verify this registry by this CA
#     d push HOST:PORT/team/app:1     # docker;  also: p (podman), s (skopeo), in_engines COMMAND
#
# Everything runs in a mount namespace of its own, where /etc/hosts, /etc/docker and /run are private: the machine's own
# configuration and a Docker engine that may run on it are neither used nor changed. No firewall rule is made, and no
# bridge unless ENGINES_BRIDGE=1 asks for one (only after own_network), so containers use --network=host (or none). Only what was started here is ended, and nothing outlives
# ENGINES_LIMIT seconds (1200).
# shellcheck shell=bash

ENGINES_LIMIT=${ENGINES_LIMIT:-1200}

# The namespace that holds the private files; its life bounds that of everything in it.
engines_namespace() {
    [ -z "${ENGINES_PID:-}" ] || return 0
    need unshare nsenter
    [ "$(id -u)" = 0 ] || bail "a Docker engine needs root"
    ENGINES="$WORK/engines"
    mkdir -p "$ENGINES"/{etc-docker,docker-config,data,exec,podman,tmp} /etc/docker
    echo '{}' >"$ENGINES/docker-config/config.json"
    echo '{}' >"$ENGINES/daemon.json"
    {
        echo "127.0.0.1 localhost"
        for name in "$@"; do echo "${ENGINES_ADDRESS:-127.0.0.1} $name"; done
    } >"$ENGINES/hosts"
    # /run is hidden so that dockerd starts a containerd of its own and touches no other.
    unshare -m --propagation private sh -c '
        mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/etc-docker" /etc/docker &&
        mount -t tmpfs tmpfs /run && touch "$0/ready" && exec sleep "$1"' "$ENGINES" "$ENGINES_LIMIT" \
        >"$ENGINES/namespace.log" 2>&1 &
    ENGINES_PID=$!
    on_exit stop_pid "$ENGINES_PID" 2
    wait_for 10 test -e "$ENGINES/ready" || bail "no mount namespace: $(cat "$ENGINES/namespace.log")"
    export ENGINES ENGINES_PID
}

# in_engines COMMAND...: with the engines' view of /etc/hosts and trust, bounded in time.
in_engines() {
    DOCKER_HOST="unix://$ENGINES/docker.sock" DOCKER_CONFIG="$ENGINES/docker-config" DOCKER_BUILDKIT=0 \
        REGISTRY_AUTH_FILE="$ENGINES/docker-config/config.json" TMPDIR="$ENGINES/tmp" \
        nsenter -t "$ENGINES_PID" -m --wd="$PWD" timeout "${ENGINE_TIMEOUT:-120}" "$@"
}

# d ARGUMENTS...: docker against our engine. Debian's client, as its engine is Debian's, where both are installed.
d() {
    local client=/usr/bin/docker
    [ -x "$client" ] || client=docker
    in_engines "$client" "$@"
}

# p ARGUMENTS...: podman with its own storage.
p() {
    in_engines podman --root "$ENGINES/podman/root" --runroot "$ENGINES/podman/run" --tmpdir "$ENGINES/podman/tmp" \
        --storage-driver=vfs --cgroup-manager=cgroupfs "$@"
}

# s ARGUMENTS...: skopeo.
s() { in_engines skopeo "$@"; }

engines_stop() {
    local containerd
    containerd=$(cat "$ENGINES/exec/containerd/containerd.pid" 2>/dev/null)
    [ -n "${DOCKERD_PID:-}" ] && stop_pid "$DOCKERD_PID" 15
    # dockerd ends its containerd itself; after a KILL it could not.
    if [ -n "$containerd" ] && [ "$(cat "/proc/$containerd/comm" 2>/dev/null)" = containerd ]; then
        stop_pid "$containerd" 5
    fi
    DOCKERD_PID=""
}

# engines_start [NAME...]: the namespace and a running Docker engine.
engines_start() {
    local driver bridge=--bridge=none
    [ "${ENGINES_BRIDGE:-}" != 1 ] || bridge=--bip=198.51.100.1/24
    need dockerd containerd runc
    engines_namespace "$@"
    # overlay2 where the file system can; vfs copies whole layers, but works everywhere.
    for driver in overlay2 vfs; do
        rm -f "$ENGINES/docker.pid"
        in_engines_daemon dockerd --config-file "$ENGINES/daemon.json" --storage-driver="$driver" "$bridge" \
            --iptables=false --ip6tables=false --data-root "$ENGINES/data" --exec-root "$ENGINES/exec" \
            -H "unix://$ENGINES/docker.sock" --pidfile "$ENGINES/docker.pid" >"$ENGINES/dockerd.log" 2>&1 &
        DOCKERD_PID=$!
        if wait_for 30 engine_answers; then
            [ "${ENGINES_REGISTERED:-}" = 1 ] || on_exit engines_stop
            ENGINES_REGISTERED=1
            return 0
        fi
        engines_stop
    done
    bail "dockerd does not start: $(tail -n 3 "$ENGINES/dockerd.log")"
}

engine_answers() { kill -0 "$DOCKERD_PID" && d version; }

# In the namespace without a limit of its own: engines_stop ends it.
in_engines_daemon() { exec nsenter -t "$ENGINES_PID" -m --wd="$PWD" "$@"; }

# engines_trust HOST:PORT CA.pem: docker, podman and skopeo all look into /etc/docker/certs.d, at each connection.
engines_trust() {
    mkdir -p "$ENGINES/etc-docker/certs.d/$1"
    cp "$2" "$ENGINES/etc-docker/certs.d/$1/ca.crt"
}

# engines_forget: removes the engines' images, so that the next pull fetches every byte.
engines_forget() {
    d rmi -f $(d images -q | sort -u) >/dev/null 2>&1
    p rmi -a -f >/dev/null 2>&1
    return 0
}
