#!/usr/bin/env bash
# A full disk, left with the program's own means and by doing what its messages say: pushes stop in time, everything else goes
# on; then another program takes the rest to the last byte, and a start serves what is there. On a disk in memory of 160 MiB.
# timeout: 300
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" curl jq unshare
if [ "${DTR_TEST_MOUNTS:-}" != own ]; then
    [ "$(id -u)" = 0 ] || bail "a disk of its own needs root"
    rm -rf "$WORK"
    DTR_TEST_MOUNTS=own exec unshare -m --propagation private bash "$0"
fi
disk=$WORK/disk
mkdir "$disk"
mount -t tmpfs -o size=160m none "$disk" || bail "no disk in memory"
on_exit umount "$disk"
port=$(free_port)
url=https://127.0.0.1:$port
data=$disk/dtr
password="a-password-$RANDOM"
stop_replica() { pid=$(cat "$data/dtr.pid" 2>/dev/null) && kill -KILL "$pid"; }
on_exit stop_replica
"$dtr" install --data-dir "$data" --dtr-external-url "$url" --replica-https-port "$port" --replica-http-port 0 \
    --listen-address 127.0.0.1 --admin-password "$password" >"$WORK/install.log" 2>&1 || bail "install: $(tail -n 3 "$WORK/install.log")"
"$dtr" repo create admin/app --data-dir "$data" >/dev/null || bail "no repository"

api() { curl -sk --max-time 30 -u "admin:$password" "$@"; }
code() { api -o "$WORK/answer" -w '%{http_code}' "$@"; }
# blob FILE: uploads it; prints the status.
blob() { code -X POST -H 'content-type: application/octet-stream' --data-binary "@$1" "$url/v2/admin/app/blobs/uploads/?digest=$(digest "$1")"; }
digest() { echo "sha256:$(sha256sum "$1" | cut -d' ' -f1)"; }
echo '{}' >"$WORK/config"
# push TAG: an image with a layer of 3 MB that nobody else has; prints the first status that is not 201, else 201.
push() {
    local layer=$WORK/layer status
    head -c 3000000 /dev/urandom >"$layer"
    for file in "$WORK/config" "$layer"; do
        status=$(blob "$file")
        [ "$status" = 201 ] || { echo "$status"; return; }
    done
    jq -cn --arg config "$(digest "$WORK/config")" --arg layer "$(digest "$layer")" '{schemaVersion: 2,
        mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $config, size: 3},
        layers: [{mediaType: "application/vnd.oci.image.layer.v1.tar", digest: $layer, size: 3000000}]}' >"$WORK/manifest"
    code -X PUT -H 'content-type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$WORK/manifest" "$url/v2/admin/app/manifests/$1"
}
# pulls TAG: its layer arrives with its hash.
pulls() {
    local layer
    layer=$(api "$url/v2/admin/app/manifests/$1" | jq -r '.layers[0].digest') || return 1
    [ "sha256:$(api "$url/v2/admin/app/blobs/$layer" | sha256sum | cut -d' ' -f1)" = "$layer" ]
}
free_mib() { df -BM --output=avail "$disk" | tail -n 1 | tr -dc 0-9; }

images=0
while status=$(push "t$images") && [ "$status" = 201 ]; do images=$((images + 1)); done
same "pushes end with 507" 507 "$status"
ok "after as many as fit beside the reserve" test "$images" -ge 20
ok "which is kept" test "$(free_mib)" -ge 60
ok "everything that was acknowledged is there" pulls "t$((images - 1))"
says() { grep -q "$1" <<<"$2"; }
ok "the refusal says that deleting goes on" says "deleting go on" "$(cat "$WORK/answer")"
same "the replica stays in service" 200 "$(code "$url/_ping")"
ok "and says what is refused" says "pushes are refused" "$(cat "$WORK/answer")"
status_text() { "$dtr" status --data-dir "$data"; }
fails "the exit code of status says that something is to be done" status_text
ok "its text names the commands" says "dtr tag delete --with-image" "$(status_text)"
remote() { "$dtr" "$@" --ucp-url "$url" --ucp-insecure-tls --ucp-username admin --ucp-password "$password"; }
ok "one can log in" remote tag list admin/app
ok "a backup can be taken" "$dtr" backup --data-dir "$data" --output "$WORK/full.tar"
ok "and is good" "$dtr" backup verify "$WORK/full.tar"
ok "what would be collected is told" "$dtr" gc --data-dir "$data" --dry-run
same "the grace period can be shortened" 202 "$(code -X POST -H 'content-type: application/json' -d '{"gcGraceSeconds": 60}' "$url/api/v0/meta/settings")"
for n in 0 1 2 3 4 5; do
    ok "an image is deleted as the text says" remote tag delete admin/app "t$n" --with-image
done
deleted_at=$SECONDS

# Another program takes all that is left.
cat /dev/zero >"$disk/other" 2>/dev/null
same "there is no byte left" 0 "$(free_mib)"
stop_replica
wait_for 10 eval "! kill -0 $pid"
serve() { "$dtr" serve --detached --data-dir "$data" >>"$WORK/serve.log" 2>&1 & }
serve
ok "a replica starts on the full disk" wait_for 30 pulls "t$((images - 1))"
same "and is in service" 200 "$(code "$url/_ping")"
fails "status says that something is to be done" status_text
ok "what would be collected is told" "$dtr" gc --data-dir "$data" --dry-run
ok "a backup can be taken" "$dtr" backup --data-dir "$data" --output "$WORK/none.tar"
ok "and is good" "$dtr" backup verify "$WORK/none.tar"
same "a push is refused" 507 "$(push none-left)"
rm "$disk/other"
collects() { "$dtr" gc --data-dir "$data" --run -o json >"$WORK/collected" && [ "$(jq .removed "$WORK/collected")" -ge 6 ]; }
until [ $((SECONDS - deleted_at)) -gt 62 ]; do sleep 1; done
ok "the collector runs as the text says" wait_for 20 collects
same "pushes work again, without a restart" 201 "$(push after)"
ok "what was there is there" pulls "t$((images - 1))"
finish
