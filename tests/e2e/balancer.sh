#!/usr/bin/env bash
# Three replicas behind a load balancer, with the files of deploy/: haproxy that passes TLS through, nginx that does, nginx
# that ends TLS. docker and skopeo push and pull through each; an upload goes to another replica with every request; addresses
# in answers are the balancer's; a replica dies, another is frozen, and clients that try again see nothing of it. Behind haproxy
# also: long transfers while all restart, of which none is cut, and what is answered without a majority.
# timeout: 480
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
own_network
. "$ROOT/tests/lib/engines.sh"
. "$ROOT/tests/lib/images.sh"
. "$ROOT/tests/lib/hosts.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" etcd haproxy nginx skopeo jq curl openssl
hosts 3
front=10.77.0.254
host=registry.example.com
url=https://$host
password=a-password-of-many
export UCP_PASSWORD=$password DTR_ADMIN_PASSWORD=$password
replica_id() { printf "%012d" "$1"; }
folder() { echo "$WORK/$1"; }
place() { echo "--data-dir $(folder "$1") --replica-id $(replica_id "$1") --replica-host $(address "$1") --dtr-storage-volume $WORK/shared"; }
kill_machine() { ip netns pids "$HOSTS_NAME-$1" | xargs -r kill -KILL; }
stop_machines() { for n in 1 2 3; do kill_machine "$n"; done; }
on_exit stop_machines
is_well() { [ "$(curl -sk -o /dev/null -w '%{http_code}' --max-time 3 "https://$(address "$1")/_ping")" = 200 ]; }
serve() {
    on "$1" setsid "$dtr" serve --detached --data-dir "$(folder "$1")" >>"$(folder "$1")/dtr.log" 2>&1 &
    wait_for 30 is_well "$1"
}

# shellcheck disable=SC2046
ok "the first replica" on 1 "$dtr" install --store etcd $(place 1) --dtr-external-url "$url" || bail "nothing works without it"
join() {
    # shellcheck disable=SC2046
    on "$1" "$dtr" join $(place "$1") --ucp-url "https://$(address 1)" --ucp-insecure-tls --ucp-username admin --existing-replica-id "$(replica_id 1)"
}
ok "a second joins" join 2 || bail "nothing works without it"
ok "a third joins" join 3 || bail "nothing works without it"
"$dtr" repo create admin/app --data-dir "$(folder 1)" >/dev/null || bail "admin/app cannot be made"
curl -skf "https://$(address 1)/ca" >"$WORK/registry-ca.pem" || bail "no authority"
make_certificate "$WORK/tls" "$host"

# The files as they are, but for addresses and folders.
at_our_addresses() { sed -e 's/10\.0\.0\.\([123]\):/10.77.0.\1:/' -e "s|/etc/nginx/|$WORK/nginx/|" "$1"; }
mkdir "$WORK/nginx"
cp "$WORK/tls/cert.pem" "$WORK/nginx/registry.crt"
cp "$WORK/tls/key.pem" "$WORK/nginx/registry.key"
cp "$WORK/registry-ca.pem" "$WORK/nginx/"
at_our_addresses "$ROOT/deploy/haproxy/haproxy.cfg" >"$WORK/haproxy.cfg"
nginx_around() {
    local http="" top=""
    case $1 in stream) top="include $WORK/nginx/stream.site;" ;; https) http="include $WORK/nginx/https.site;" ;; esac
    at_our_addresses "$ROOT/deploy/nginx/$1.conf" >"$WORK/nginx/$1.site"
    cat <<CONFIG
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
pid $WORK/nginx/pid;
error_log $WORK/nginx/error.log warn;
user root;
worker_processes 1;
events {}
http {
    log_format who '\$request_method \$upstream_addr';
    access_log $WORK/nginx/access who;
    client_body_temp_path $WORK/nginx/body;
    proxy_temp_path $WORK/nginx/proxy;
    fastcgi_temp_path $WORK/nginx/fastcgi;
    uwsgi_temp_path $WORK/nginx/uwsgi;
    scgi_temp_path $WORK/nginx/scgi;
    $http
}
$top
CONFIG
}
front_pid=""
# in_front KIND: ends the balancer that is there, and starts this one.
in_front() {
    [ -z "$front_pid" ] || stop_pid "$front_pid" 3
    case $1 in
    haproxy) haproxy -db -f "$WORK/haproxy.cfg" >"$WORK/haproxy.log" 2>&1 & ;;
    *)
        nginx_around "$1" >"$WORK/nginx/$1.conf"
        nginx -e "$WORK/nginx/error.log" -c "$WORK/nginx/$1.conf" >>"$WORK/nginx/error.log" 2>&1 &
        ;;
    esac
    front_pid=$!
    wait_for 10 via_ping
}
stop_front() { stop_pid "$front_pid" 3; }
on_exit stop_front
ca=$WORK/registry-ca.pem
# via CURL ARGUMENTS... PATH: through the balancer, by a connection of its own; the head of the answer.
via() {
    local path=${*: -1}
    curl -sS --max-time 60 --resolve "$host:443:$front" --cacert "$ca" -o "$WORK/body" -D - "${@:1:$#-1}" "$url${path#"$url"}" | tr -d '\r'
}
via_ping() { via /_ping | grep '^HTTP/.* 200'; }
header() { sed -n "s/^$1: //Ip"; }

export ENGINES_ADDRESS=$front
engines_start "$host"
image_context "$WORK/context"
image_oci "$WORK/layout" hand
login() { echo "$password" | "$1" login -u admin --password-stdin "$host"; }
head -c 60000000 /dev/urandom >"$WORK/large"
digest=$(file_digest "$WORK/large")
large() {
    local at
    at=$(via -u "admin:$password" -X POST -d '' /v2/admin/app/blobs/uploads/ | header location)
    via -u "admin:$password" -X PUT -H 'Content-Type: application/octet-stream' -T "$WORK/large" "$at?digest=$digest" | grep '^HTTP/.* 201'
}
large_back() { via -u "admin:$password" "/v2/admin/app/blobs/$digest" >/dev/null && cmp "$WORK/large" "$WORK/body"; }
head -c 4000000 /dev/urandom >"$WORK/small"
split -b 1000000 "$WORK/small" "$WORK/part-"
# Each request by a connection of its own: the balancer gives them to one replica after the other.
jumping() {
    local at part
    at=$(via -u "admin:$password" -X POST -d '' /v2/admin/app/blobs/uploads/ | header location)
    for part in "$WORK"/part-*; do
        at=$(via -u "admin:$password" -X PATCH -H 'Content-Type: application/octet-stream' --data-binary "@$part" "$at" | header location)
    done
    via -u "admin:$password" -X PUT -d '' "$at?digest=$(file_digest "$WORK/small")" | grep '^HTTP/.* 201'
}

# through KIND: what must work with each of them.
through() {
    local kind=$1 location
    ok "$kind: /_ping" in_front "$kind" || bail "the balancer does not run: $(tail -n 5 "$WORK/haproxy.log" "$WORK/nginx/error.log")"
    same "$kind: tokens are fetched at the balancer's address" "$url/auth/token" "$(via /v2/ | sed -n 's/.*realm="\([^"]*\)".*/\1/p')"
    location=$(via -u "admin:$password" -X POST -d '' /v2/admin/app/blobs/uploads/ | header location)
    case "$location" in
    /v2/admin/app/blobs/uploads/* | "$url"/v2/admin/app/blobs/uploads/*) pass "$kind: an upload goes on at the balancer's address" ;;
    *) fail "$kind: an upload goes on at the balancer's address: $location" ;;
    esac
    engines_trust "$host" "$ca"
    ok "$kind: docker logs in" login d
    ok "$kind: docker pushes" d push "$host/admin/app:$kind"
    d rmi "$host/admin/app:$kind" >/dev/null
    ok "$kind: docker pulls" d pull "$host/admin/app:$kind"
    ok "$kind: skopeo pushes" s copy "oci:$WORK/layout:hand" "docker://$host/admin/app:hand-$kind"
    ok "$kind: skopeo pulls" s copy "docker://$host/admin/app:hand-$kind" "dir:$WORK/pulled-$kind"
    ok "$kind: an upload with a connection for each request" jumping
    ok "$kind: 60 MB in one piece" large
    ok "$kind: and back, equal" large_back
}

# What a client does, again and again until the file "enough" is there: an upload of three requests, and a pull. Each is tried
# up to five times, as docker does; counted is what needed a second attempt, and what came to nothing.
attempt() {
    local at name=$1 blob=$2
    if [ "$name" = pull ]; then
        one -f "$url/v2/admin/app/manifests/haproxy" -o /dev/null -H 'accept: */*'
        return
    fi
    at=$(one -f -X POST -d '' "$url/v2/admin/app/blobs/uploads/" -o /dev/null -D - | tr -d '\r' | header location) && [ -n "$at" ] || return 1
    at=$(one -f -X PATCH -H 'Content-Type: application/octet-stream' --data-binary "@$blob" "$url${at#"$url"}" -o /dev/null -D - | tr -d '\r' | header location) && [ -n "$at" ] || return 1
    one -f -X PUT -d '' "$url${at#"$url"}?digest=$(file_digest "$blob")" -o /dev/null
}
one() { curl -s --max-time 10 --resolve "$host:443:$front" --cacert "$ca" -u "admin:$password" "$@"; }
client() {
    local number=$1 name try pause
    while [ ! -e "$WORK/enough" ]; do
        head -c 20000 /dev/urandom >"$WORK/blob-$number"
        for name in push pull; do
            for ((try = 1, pause = 1; try <= 5; try++, pause *= 2)); do
                echo "try $try $name" >>"$WORK/client-$number"
                attempt "$name" "$WORK/blob-$number" && break
                # What docker does before it tries again.
                sleep "$pause"
            done
            [ "$try" -le 5 ] || echo "lost $name" >>"$WORK/client-$number"
        done
    done
}
clients=()
begin_clients() {
    rm -f "$WORK/enough" "$WORK"/client-*
    clients=()
    for number in 1 2 3; do client "$number" & clients+=($!); done
}
done_so_far() { cat "$WORK"/client-* 2>/dev/null | grep -c '^try 1'; }
more_done() { [ "$(done_so_far)" -ge "$1" ]; }
goes_on() { wait_for 30 more_done "$(($(done_so_far) + 12))"; }
end_clients() {
    touch "$WORK/enough"
    wait "${clients[@]}"
    note "$1: $(done_so_far) operations, $(cat "$WORK"/client-* | grep -c '^try 2') of them tried again, $(cat "$WORK"/client-* | grep -c '^lost') lost"
    same "$1: no operation is lost for a client that tries again" 0 "$(cat "$WORK"/client-* | grep -c '^lost')"
}

ok "docker builds" image_build "$host/admin/app:haproxy" "$WORK/context" || bail "nothing to push"
for kind in stream https; do d tag "$host/admin/app:haproxy" "$host/admin/app:$kind"; done
through haproxy
same "haproxy: port 80 sends clients to HTTPS" "301 $url/v2/" "$(curl -s -o /dev/null -w '%{http_code} %{redirect_url}' --resolve "$host:80:$front" "http://$host/v2/")"
said() { grep -q "Server replicas/$1 is $2" "$WORK/haproxy.log"; }
begin_clients
goes_on
kill_machine 2
ok "haproxy: a dead replica is left out" wait_for 20 said r2 DOWN
ok "haproxy: clients go on" goes_on
ok "haproxy: it comes back" serve 2
ok "haproxy: and gets requests again" wait_for 20 said r2 UP
frozen=$(cat "$(folder 3)/dtr.pid")
kill -STOP "$frozen"
ok "haproxy: a frozen one is left out" wait_for 20 said r3 DOWN
ok "haproxy: clients go on" goes_on
kill -CONT "$frozen"
ok "haproxy: it gets requests again" wait_for 20 said r3 UP
end_clients haproxy

# What takes long, again and again while all replicas restart, one after the other; each by one attempt.
slowly() { curl -sS --max-time 90 --limit-rate 4M --resolve "$host:443:$front" --cacert "$ca" -u "admin:$password" -f "$@"; }
long_up() {
    local at
    at=$(slowly -X POST -d '' "$url/v2/admin/app/blobs/uploads/" -o /dev/null -D - | tr -d '\r' | header location) && [ -n "$at" ] &&
        slowly -X PUT -H 'Content-Type: application/octet-stream' -T "$WORK/large" "$url${at#"$url"}?digest=$digest" -o /dev/null
}
long_down() { slowly "$url/v2/admin/app/blobs/$digest" -o "$1" && cmp "$WORK/large" "$1"; }
long_backup() { slowly --limit-rate 1M -X POST -H 'Content-Type: application/json' -d '{}' "$url/api/v0/backups?withImages=true" -o "$1" && "$dtr" backup verify "$1" >/dev/null; }
again_and_again() {
    while [ ! -e "$WORK/restarted" ]; do
        "long_$1" "$WORK/long-$2" 2>>"$WORK/long.log" && echo "$1 whole" || echo "$1 cut"
    done >>"$WORK/long-$2.told"
}
long=()
for kind in up down backup up down backup; do
    again_and_again "$kind" "${#long[@]}" &
    long+=($!)
done
# shellcheck disable=SC2046
ok "haproxy: all are restarted, one after the other" "$dtr" reconfigure --ucp-url "https://$(address 1)" --ucp-insecure-tls --ucp-username admin \
    --existing-replica-id "$(replica_id 1)" --restart --drain-seconds 5
touch "$WORK/restarted"
wait "${long[@]}"
for n in 1 2 3; do
    ok "haproxy: r$n was" grep -q 'restarted, and well' "$(folder "$n")/dtr.log"
    ok "haproxy: and got no new connections before" grep -q "Server replicas/r$n is stopping" "$WORK/haproxy.log"
done
note "$(cat "$WORK"/long-*.told | sort | uniq -c | tr -s ' \n' ' ')"
same "haproxy: no long transfer was cut" "0" "$(cat "$WORK"/long-*.told | grep -c cut)"
for kind in up down backup; do ok "haproxy: some went on meanwhile ($kind)" grep -q "$kind whole" "$WORK"/long-*.told; done

token=$(via -u "admin:$password" "/auth/token?service=$host&scope=repository:admin/app:pull" >/dev/null; jq -r .token "$WORK/body")
known() { via -f -H "Authorization: Bearer $token" "/v2/admin/app/blobs/$digest" | grep '^HTTP/.* 200' && cmp "$WORK/large" "$WORK/body"; }
push_told() { via --max-time 5 -u "admin:$password" -X POST -d '' /v2/admin/app/blobs/uploads/; }
told_later() { push_told >"$WORK/told" && grep -q '^HTTP/.* 503' "$WORK/told" && grep -qi '^retry-after: ' "$WORK/told"; }
ok "haproxy: with a token content is pulled by its digest" known
kill_machine 2
kill_machine 3
ok "haproxy: without a majority a push hears 503, and when to try again" wait_for 30 told_later
# What is under way in the moment in which the survivor leaves the first backend is cut.
ok "haproxy: and pulls by digest go on" wait_for 20 known
for n in 1 2 3; do ok "haproxy: and on ($n)" known; done
ok "haproxy: while a push still hears that" told_later
ok "haproxy: two come back" serve 2
ok "haproxy: all" serve 3
ok "haproxy: and pushes go on" wait_for 20 jumping

through stream
begin_clients
goes_on
kill_machine 2
ok "stream: clients go on without a dead replica" goes_on
end_clients stream
serve 2

ca=$WORK/tls/ca.pem
through https
same "https: each replica took parts of that upload" 3 "$(sed -n 's/^PATCH //p' "$WORK/nginx/access" | sort -u | wc -l)"
same "https: nginx wrote nothing to its disk" 0 "$(grep -c 'is buffered to a temporary file' "$WORK/nginx/error.log")"
begin_clients
goes_on
kill_machine 2
ok "https: clients go on without a dead replica" goes_on
end_clients https
finish
