#!/usr/bin/env bash
# A proxy that ends TLS: nginx with the lines of docs/install.md in front of the plain listener. docker and skopeo push and
# pull through it; addresses in answers are the proxy's; what a proxy says is believed from that proxy alone.
# timeout: 300
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
own_network 192.0.2.1
. "$ROOT/tests/lib/engines.sh"
. "$ROOT/tests/lib/images.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" nginx skopeo jq curl openssl
host=registry.example.com
url=https://$host
password="a-password-$RANDOM"
data=$WORK/dtr
stop_replica() { "$dtr" destroy --data-dir "$data" --yes; }
on_exit stop_replica

# The lines of the documents, as they are, but for the folder of the certificate.
make_certificate "$WORK/tls" "$host"
mkdir "$WORK/nginx"
cp "$WORK/tls/cert.pem" "$WORK/nginx/registry.crt"
cp "$WORK/tls/key.pem" "$WORK/nginx/registry.key"
sed -n '/^```nginx$/,/^```$/{/^```/d;p}' "$ROOT/docs/install.md" | sed "s|/etc/nginx/|$WORK/nginx/|" >"$WORK/nginx/site.conf"
grep -q proxy_pass "$WORK/nginx/site.conf" || bail "docs/install.md has no nginx lines"
cat >"$WORK/nginx/nginx.conf" <<CONFIG
daemon off;
pid $WORK/nginx/pid;
error_log $WORK/nginx/error.log warn;
user root;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path $WORK/nginx/body;
    proxy_temp_path $WORK/nginx/proxy;
    fastcgi_temp_path $WORK/nginx/fastcgi;
    uwsgi_temp_path $WORK/nginx/uwsgi;
    scgi_temp_path $WORK/nginx/scgi;
    include $WORK/nginx/site.conf;
}
CONFIG
"$dtr" install --data-dir "$data" --dtr-external-url "$url" --admin-password "$password" --listen-address 127.0.0.1 \
    --replica-https-port 8443 --replica-http-port 8080 --plain-http 127.0.0.1:5000 --trusted-proxies 127.0.0.1/32 \
    >"$WORK/install.log" 2>&1 || bail "install: $(tail -n 3 "$WORK/install.log")"
nginx -e "$WORK/nginx/error.log" -c "$WORK/nginx/nginx.conf" &
on_exit stop_pid $!
wait_for 10 port_open 443 192.0.2.1 || bail "nginx does not listen: $(tail -n 3 "$WORK/nginx/error.log")"
for name in app large; do
    "$dtr" repo create "admin/$name" --data-dir "$data" >/dev/null || bail "admin/$name cannot be made"
done

# via [CURL ARGUMENTS...] PATH: through the proxy; the head of the answer.
via() {
    local path=${*: -1}
    curl -sS --resolve "$host:443:192.0.2.1" --cacert "$WORK/tls/ca.pem" -o "$WORK/body" -D - "${@:1:$#-1}" "$url$path" | tr -d '\r'
}
same "/_ping through the proxy" '{"Error":"","Healthy":true}' "$(via /_ping >/dev/null; tr -d ' \n' <"$WORK/body")"
same "tokens are fetched at the proxy's address" "$url/auth/token" "$(via /v2/ | sed -n 's/.*realm="\([^"]*\)".*/\1/p')"
# Whatever a proxy makes of the host, unless it says by which name the client came.
realm() { curl -sS -o /dev/null -D - "$@" http://127.0.0.1:5000/v2/ | tr -d '\r' | sed -n 's/.*realm="\([^"]*\)".*/\1/p'; }
same "also where the proxy hands on its own name for us" "$url/auth/token" "$(realm -H 'X-Forwarded-Proto: https')"
same "a proxy of several names says which one" "https://other.example/auth/token" \
    "$(realm -H 'X-Forwarded-Proto: https' -H 'X-Forwarded-Host: other.example')"
same "the outer of two proxies met the client" "https://other.example/auth/token" \
    "$(realm -H 'X-Forwarded-For: 203.0.113.9, 127.0.0.1' -H 'X-Forwarded-Proto: https, http' \
        -H 'X-Forwarded-Host: other.example, inner.local:5000')"
same "no password is asked for in the clear" "https://other.example/auth/token" "$(realm -H 'X-Forwarded-Host: other.example')"
location=$(via -u "admin:$password" -X POST -d '' /v2/admin/app/blobs/uploads/ | sed -n 's/^[Ll]ocation: //p')
case "$location" in
/v2/admin/app/blobs/uploads/* | "$url"/v2/admin/app/blobs/uploads/*) pass "an upload goes on at the proxy's address" ;;
*) fail "an upload goes on at the proxy's address: $location" ;;
esac

export ENGINES_ADDRESS=192.0.2.1
engines_start "$host"
engines_trust "$host" "$WORK/tls/ca.pem"
image_context "$WORK/context"
login() { echo "$password" | "$1" login -u admin --password-stdin "$host"; }
ok "skopeo logs in" login s
ok "docker logs in" login d || bail "nothing works without a login"
ok "docker builds" image_build "$host/admin/app:1" "$WORK/context"
ok "docker pushes" d push "$host/admin/app:1"
engines_forget
ok "docker pulls" d pull "$host/admin/app:1"
image_oci "$WORK/layout" hand
ok "skopeo pushes" s copy "oci:$WORK/layout:hand" "docker://$host/admin/app:hand"
ok "skopeo pulls" s copy "docker://$host/admin/app:hand" "dir:$WORK/pulled"

# Large: in one piece and in chunks, neither gathered by the proxy first.
head -c 300000000 /dev/urandom >"$WORK/large"
digest=$(file_digest "$WORK/large")
large() {
    local at
    at=$(via -u "admin:$password" -X POST -d '' /v2/admin/large/blobs/uploads/ | sed -n 's/^[Ll]ocation: //p')
    via -u "admin:$password" -X PUT -H 'Content-Type: application/octet-stream' -T "$WORK/large" "${at#"$url"}?digest=$digest" | grep '^HTTP/.* 201'
}
ok "300 MB in one piece" large
back() { via -u "admin:$password" "/v2/admin/large/blobs/$digest" >/dev/null && cmp "$WORK/large" "$WORK/body"; }
ok "and back, equal" back
chunked() {
    local at part
    at=$(via -u "admin:$password" -X POST -d '' /v2/admin/app/blobs/uploads/ | sed -n 's/^[Ll]ocation: //p')
    split -b 5000000 <(head -c 15000000 "$WORK/large") "$WORK/part-"
    for part in "$WORK"/part-*; do
        at=$(via -u "admin:$password" -X PATCH -H 'Content-Type: application/octet-stream' --data-binary "@$part" "${at#"$url"}" |
            sed -n 's/^[Ll]ocation: //p')
    done
    digest=sha256:$(head -c 15000000 "$WORK/large" | sha256sum | cut -d' ' -f1)
    via -u "admin:$password" -X PUT -d '' "${at#"$url"}?digest=$digest" | grep '^HTTP/.* 201'
}
ok "15 MB in three chunks" chunked
same "the proxy wrote none of it to its disk" 0 "$(grep -c 'is buffered to a temporary file' "$WORK/nginx/error.log")"

# Who is believed.
# Something that is not there, since reads and missing logins are not logged.
nothing=/v2/admin/app/manifests/nothing
via -u "admin:$password" -H 'User-Agent: seen-through-proxy' $nothing >/dev/null
direct() { curl -sSk -o /dev/null -u "admin:$password" -H 'X-Forwarded-For: 203.0.113.9' -H "User-Agent: $1" "$2$nothing"; }
direct trusted http://127.0.0.1:5000
direct by-https https://127.0.0.1:8443
remote_of() { sed 's/\x1b\[[0-9;]*m//g' "$data/dtr.log" | grep "agent=\"$1\"" | sed -n 's/.*remote=\([^ ]*\).*/\1/p' | tail -n 1; }
same "the log names the client, not the proxy" 192.0.2.1 "$(remote_of seen-through-proxy)"
same "a trusted proxy's word is taken on the plain port" 203.0.113.9 "$(remote_of trusted)"
same "nobody's on the other" 127.0.0.1 "$(remote_of by-https)"

# The product's own commands, by the address that people know.
as_client() { in_engines env UCP_CA="$(cat "$WORK/tls/ca.pem")" "$dtr" "$@" --ucp-url "$url" --ucp-username admin --ucp-password "$password"; }
ok "repositories are listed through the proxy" as_client repo list
ok "a backup is taken through the proxy" as_client backup --with-images --output "$WORK/backup.tar"
ok "and verifies" "$dtr" backup verify "$WORK/backup.tar"

# The proxy goes.
again() {
    stop_pid "$(cat "$data/dtr.pid")"
    "$dtr" serve --data-dir "$data" >>"$data/dtr.log" 2>&1 &
    replica=$!
    wait_for 20 port_open 8443
}
ok "the plain listener is given up" "$dtr" reconfigure --data-dir "$data" --no-plain-http --no-trusted-proxies
ok "the replica starts again" again
fails "the plain port is closed" port_open 5000
stop_pid "$replica"
finish
