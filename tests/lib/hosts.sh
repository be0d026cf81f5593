# Machines of their own, in network namespaces: each has an address on a network that links can be cut from. Source after
# common.sh, and after `own_network`.
#
#     hosts 4                      # machines 1 to 4 at 10.77.0.1 to 10.77.0.4; the script itself is 10.77.0.254
#     on 2 command...              # runs it on machine 2
#     cut_off 2; mend 2               # takes machine 2's cable out, and puts it back
# shellcheck shell=bash

HOSTS_NAME=dtr$$

address() { echo "10.77.0.$1"; }

hosts() {
    local n
    need ip
    ip link add hub type bridge && ip link set hub up && ip address add 10.77.0.254/24 dev hub ||
        bail "a network of machines cannot be made"
    for ((n = 1; n <= $1; n++)); do
        ip netns add "$HOSTS_NAME-$n" || bail "machine $n cannot be made"
        on_exit ip netns del "$HOSTS_NAME-$n"
        ip link add "port$n" type veth peer name eth0 netns "$HOSTS_NAME-$n" &&
            ip link set "port$n" master hub up || bail "machine $n cannot be linked"
        on "$n" ip link set lo up
        on "$n" ip address add "$(address "$n")/24" dev eth0
        on "$n" ip link set eth0 up
    done
}

on() {
    local machine=$1
    shift
    ip netns exec "$HOSTS_NAME-$machine" "$@"
}

cut_off() { ip link set "port$1" down; }
mend() { ip link set "port$1" up; }
