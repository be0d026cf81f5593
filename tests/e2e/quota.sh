#!/usr/bin/env bash
# The quota of etcd, left with the program's own means and by doing what its messages say: pushes stop in time and all else goes
# on; and with the alarm NOSPACE raised, which refuses every write, a larger quota helps.
# timeout: 300
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" curl jq etcd
port=$(free_port)
url=https://127.0.0.1:$port
data=$WORK/dtr
password="a-password-$RANDOM"
stop_replica() { "$dtr" destroy --data-dir "$data" --yes; }
on_exit stop_replica
"$dtr" install --data-dir "$data" --dtr-external-url "$url" --replica-https-port "$port" --replica-http-port 0 \
    --listen-address 127.0.0.1 --admin-password "$password" --store etcd --replica-host 127.0.0.1 --etcd-client-port "$(free_port)" \
    --etcd-peer-port "$(free_port)" --etcd-quota-mib 64 >"$WORK/install.log" 2>&1 || bail "install: $(tail -n 3 "$WORK/install.log")"
"$dtr" repo create admin/app --data-dir "$data" >/dev/null || bail "no repository"

api() { curl -sk --max-time 30 -u "admin:$password" "$@"; }
code() { api -o "$WORK/answer" -w '%{http_code}' "$@"; }
digest() { echo "sha256:$(sha256sum "$1" | cut -d' ' -f1)"; }
echo '{}' >"$WORK/config"
code -X POST -H 'content-type: application/octet-stream' --data-binary "@$WORK/config" "$url/v2/admin/app/blobs/uploads/?digest=$(digest "$WORK/config")" >/dev/null
# push TAG: a manifest of 3 MB that does not compress; prints the status.
push() {
    {
        printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":3},"layers":[],"annotations":{"x":"' "$(digest "$WORK/config")"
        head -c 2250000 /dev/urandom | base64 -w 0
        printf '"}}'
    } >"$WORK/manifest"
    code -X PUT -H 'content-type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$WORK/manifest" "$url/v2/admin/app/manifests/$1"
}
says() { grep -q "$1" <<<"$2"; }
status_text() { "$dtr" status --data-dir "$data"; }
told() { says "$1" "$(status_text)"; }
ping_says() { [ "$(code "$url/_ping")" = 200 ] && grep -q "$1" "$WORK/answer"; }
remote() { "$dtr" "$@" --ucp-url "$url" --ucp-insecure-tls --ucp-username admin --ucp-password "$password"; }
is_pulled() { [ "$(code -H 'accept: */*' "$url/v2/admin/app/manifests/$1")" = 200 ]; }

# While a member writes its file anew it may be 503 for a moment.
images=0
while status=$(push "t$images") && [ "$status" != 507 ] && [ "$images" -lt 40 ]; do [ "$status" != 201 ] || images=$((images + 1)); done
same "pushes end with 507" 507 "$status"
ok "after as many as fit" test "$images" -ge 10
ok "the replica stays in service, and says what is refused" wait_for 20 ping_says "pushes are refused"
fails "the exit code of status says that something is to be done" status_text
ok "its text names a command" told "dtr reconfigure --data-dir DIR --etcd-quota-mib N --restart"
# Giving up the history of so large pushes makes the files larger at first, and a small quota may be reached by that: then they
# are written anew within seconds.
ok "one can log in" wait_for 60 remote tag list admin/app
ok "a backup can be taken" "$dtr" backup --data-dir "$data" --output "$WORK/full.tar"
ok "and is good" "$dtr" backup verify "$WORK/full.tar"
ok "what would be collected is told" "$dtr" gc --data-dir "$data" --dry-run
# For some seconds a login may be refused: a compaction makes etcd's file grow, which can raise its alarm until a replica has
# written the file anew.
for n in 0 1 2 3 4 5; do ok "an image is deleted" wait_for 60 remote tag delete admin/app "t$n" --with-image; done
pushes() { [ "$(push again)" = 201 ]; }
ok "the files are written anew, and pushes are taken again" wait_for 60 pushes

# A quota below what is stored: etcd itself refuses every write.
ok "the quota is made too small" "$dtr" reconfigure --data-dir "$data" --etcd-quota-mib 16
stop_pid "$(cat "$data/dtr.pid")" 30
"$dtr" serve --detached --data-dir "$data" >>"$WORK/serve.log" 2>&1 &
is_full() { code -X POST -H "content-type: application/json" -d "{\"name\": \"r$RANDOM\"}" "$url/api/v0/repositories/admin" >/dev/null; ping_says NOSPACE; }
ok "the alarm is raised" wait_for 60 is_full
ok "the replica stays in service, and says so" wait_for 30 ping_says NOSPACE
ok "images are pulled" is_pulled "t$((images - 1))"
ok "a backup can be taken without a hold" "$dtr" backup --data-dir "$data" --output "$WORK/alarm.tar"
ok "and is good" "$dtr" backup verify "$WORK/alarm.tar"
ok "what would be collected is told" "$dtr" gc --data-dir "$data" --dry-run
ok "a larger quota is saved" "$dtr" reconfigure --data-dir "$data" --etcd-quota-mib 256
# The command ends with 1 while something is wrong.
status_says() { ("$dtr" status --data-dir "$data" -o json || true) | jq -r .store.trouble | grep -q "$1"; }
ok "and waits for a restart" wait_for 30 status_says "is saved and waits for the restart"
ok "which needs no write" "$dtr" reconfigure --data-dir "$data" --restart
ok "pushes are taken again" wait_for 60 pushes
ok "the alarm is gone" wait_for 60 eval "! ping_says NOSPACE"
ok "what was there is there" is_pulled "t$((images - 1))"
grep -i "panicked" "$data/dtr.log" | sed 's/^/# /'
finish
