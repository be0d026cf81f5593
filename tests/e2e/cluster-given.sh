#!/usr/bin/env bash
# Replicas over an etcd that was given to them, of three members with mutual TLS: install, join, restart, another client
# certificate after the old one is refused, remove.
# timeout: 240
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
own_network
. "$ROOT/tests/lib/images.sh"
. "$ROOT/tests/lib/hosts.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" etcd skopeo jq curl openssl
hosts 2
password=a-password-of-many
export UCP_PASSWORD=$password DTR_ADMIN_PASSWORD=$password
id() { printf "%012d" "$1"; }
url() { echo "https://$(address "$1")"; }
folder() { echo "$WORK/$1"; }
place() { echo "--data-dir $(folder "$1") --replica-id $(id "$1") --listen-address $(address "$1") --dtr-storage-volume $WORK/shared"; }
through() { echo "--ucp-url $(url "$1") --ucp-insecure-tls --ucp-username admin --existing-replica-id $(id "$1")"; }
status() { "$dtr" status --data-dir "$(folder "$1")" -o json; }
is_well() { [ "$(curl -sk -o /dev/null -w '%{http_code}' --max-time 5 "$(url "$1")/_ping")" = 200 ]; }
is_ill() { ! is_well "$1"; }
gone() { ! ip netns pids "$HOSTS_NAME-$1" | grep -q .; }
stop_machines() { for n in 1 2; do ip netns pids "$HOSTS_NAME-$n" | xargs -r kill -KILL; done; }
on_exit stop_machines
push() { skopeo copy --quiet --dest-tls-verify=false --dest-creds "admin:$password" "oci:$WORK/layout:1" "docker://$(address "$1")/admin/app:$2"; }
tag_at() { curl -sk -u "admin:$password" -o /dev/null -D - -H 'accept: */*' -I "$(url "$1")/v2/admin/app/manifests/$2" | tr -d '\r' | sed -n 's/^docker-content-digest: //p'; }

# The etcd is the script's own, on its machine: an authority for its members, and others for its clients.
make_certificate "$WORK/members" "etcd,IP:10.77.0.254"
issue() { # AUTHORITY NAME
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" -keyout "$WORK/$1/$2.key" -out "$WORK/$1/$2.csr" 2>/dev/null &&
        openssl x509 -req -in "$WORK/$1/$2.csr" -CA "$WORK/$1/ca.pem" -CAkey "$WORK/$1/ca-key.pem" -CAcreateserial -days 2 \
            -extfile "$WORK/client.ext" -out "$WORK/$1/$2.pem" 2>/dev/null
}
printf 'extendedKeyUsage=clientAuth\n' >"$WORK/client.ext"
for authority in former latter; do
    make_certificate "$WORK/$authority" unused
    issue "$authority" dtr || bail "no certificate"
done
members=(one two three)
cluster=one=http://127.0.0.1:12380,two=http://127.0.0.1:22380,three=http://127.0.0.1:32380
endpoints=https://10.77.0.254:12379,https://10.77.0.254:22379,https://10.77.0.254:32379
pids=()
# etcd_trusts AUTHORITY: (re)starts the members; they let in clients with its certificates.
etcd_trusts() {
    local n pid
    for pid in "${pids[@]}"; do stop_pid "$pid" 5; done
    pids=()
    for n in 1 2 3; do
        etcd --name "${members[n - 1]}" --data-dir "$WORK/etcd-$n" --listen-client-urls "https://10.77.0.254:${n}2379" \
            --advertise-client-urls "https://10.77.0.254:${n}2379" --listen-peer-urls "http://127.0.0.1:${n}2380" \
            --initial-advertise-peer-urls "http://127.0.0.1:${n}2380" --initial-cluster "$cluster" --max-txn-ops 512 \
            --cert-file "$WORK/members/cert.pem" --key-file "$WORK/members/key.pem" --client-cert-auth \
            --trusted-ca-file "$WORK/$1/ca.pem" >>"$WORK/etcd-$n.log" 2>&1 &
        pids+=($!)
    done
}
stop_etcd() { for pid in "${pids[@]}"; do stop_pid "$pid" 5; done; }
on_exit stop_etcd

etcd_trusts former
# with AUTHORITY COMMAND...: as its client; the key is in a file that a variable names.
with() {
    local folder=$WORK/$1
    shift
    DTR_ETCD_CA_FILE=$WORK/members/ca.pem DTR_ETCD_CERT_FILE=$folder/dtr.pem DTR_ETCD_KEY_FILE=$folder/dtr.key "$@"
}
# shellcheck disable=SC2046
ok "the first replica" with former on 1 "$dtr" install --store etcd --etcd-endpoints "$endpoints" $(place 1) || bail "nothing works without it"
# shellcheck disable=SC2046
refused "a second cluster in it is refused" "a registry in this etcd already" with former on 2 "$dtr" install --store etcd --etcd-endpoints "$endpoints" \
    --data-dir "$(folder 2)" --listen-address "$(address 2)" --dtr-storage-volume "$WORK/elsewhere"
# shellcheck disable=SC2046
join() { on 2 "$dtr" join $(place 2) $(through 1) "$@"; }
refused "a join without the etcd is refused, and says what to give" "etcd-endpoints" join
fails "and leaves nothing" test -e "$(folder 2)"
ok "a second one joins" with former join --etcd-endpoints "$endpoints"
ok "and is well" wait_for 20 is_well 2
two() { status 1 | jq -e '.replica_health | length == 2 and all(. == "OK")'; }
ok "the status knows two" wait_for 30 two

image_oci "$WORK/layout" 1
ok "a repository" "$dtr" repo create admin/app --data-dir "$(folder 1)"
ok "an image is pushed to one" push 1 first
image=$(jq -r '.manifests[0].digest' "$WORK/layout/index.json")
same "the other has it at once" "$image" "$(tag_at 2 first)"
# shellcheck disable=SC2046
ok "both are restarted, one after the other" "$dtr" reconfigure $(through 1) --restart --drain-seconds 1

# The old certificate is refused from here on, as when it has ended.
etcd_trusts latter
for n in 1 2; do ok "with a certificate that is refused, replica $n is not well" wait_for 40 is_ill "$n"; done
refused "another that is refused too is not taken" "nothing was changed" with former "$dtr" reconfigure --data-dir "$(folder 1)"
for n in 1 2; do
    ok "replica $n is given one that is good" with latter "$dtr" reconfigure --data-dir "$(folder $n)"
    ok "and is well with it, without a restart" wait_for 30 is_well $n
done
ok "pushes go on" push 2 second
same "and are seen" "$image" "$(tag_at 1 second)"
ok "other addresses of it are taken" "$dtr" reconfigure --data-dir "$(folder 1)" --etcd-endpoints "${endpoints%,*}" --restart --drain-seconds 1
ok "and the replica is well" is_well 1
etcd --name other --data-dir "$WORK/other" --listen-client-urls https://10.77.0.254:42379 --advertise-client-urls https://10.77.0.254:42379 \
    --listen-peer-urls http://127.0.0.1:42380 --initial-advertise-peer-urls http://127.0.0.1:42380 --initial-cluster other=http://127.0.0.1:42380 \
    --max-txn-ops 512 --cert-file "$WORK/members/cert.pem" --key-file "$WORK/members/key.pem" --client-cert-auth \
    --trusted-ca-file "$WORK/latter/ca.pem" >"$WORK/other.log" 2>&1 &
on_exit stop_pid $!
refused "those of another are not" "knows no replica" "$dtr" reconfigure --data-dir "$(folder 1)" --etcd-endpoints https://10.77.0.254:42379

# shellcheck disable=SC2046
refused "one that is not there cannot be removed" "there is no replica" "$dtr" remove $(through 1) --replica-ids "$(id 3)"
# shellcheck disable=SC2046
ok "one is removed" "$dtr" remove $(through 1) --replica-ids "$(id 2)"
ok "and stops by itself" wait_for 30 gone 2
same "one is left" 1 "$(status 1 | jq '.replica_health | length')"
ok "and takes pushes" push 1 third
finish
