#!/usr/bin/env bash
# Image content in a bucket of an S3-compatible server: install, push, kill, pull; back up, lose the machine, restore onto
# the same bucket, pull. Nothing of an image is on the machine at any time.
# timeout: 300
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
. "$ROOT/tests/lib/images.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
export PATH="$PATH:${XDG_CACHE_HOME:-$HOME/.cache}/dtr-test/bin"
need "$dtr" etcd versitygw skopeo jq curl
port=$(free_port)
store_port=$(free_port)
url=https://127.0.0.1:$port
password="a-password-$RANDOM"
id=0123456789ab
data=$WORK/dtr
place="--replica-https-port $port --replica-http-port 0 --listen-address 127.0.0.1"
etcd() { echo "--etcd-client-port $(free_port) --etcd-peer-port $(free_port)"; }
bucket="--s3-bucket images --s3-endpoint http://127.0.0.1:$store_port --s3-access-key tester --s3-root /registry"
export DTR_S3_SECRET_KEY=secret-of-the-bucket

stop_replica() { "$dtr" destroy --data-dir "$1" --yes >/dev/null 2>&1; }
on_exit stop_replica "$data"
on_exit stop_replica "$WORK/again"
on_exit stop_replica "$WORK/second"
mkdir -p "$WORK/store/images" "$WORK/meta"
start_store() {
    versitygw --access tester --secret "$DTR_S3_SECRET_KEY" --quiet --keep-alive --port "127.0.0.1:$store_port" \
        posix --sidecar "$WORK/meta" "$WORK/store" >/dev/null 2>&1 &
    store=$!
}
start_store
stop_store() { kill -9 "$store"; wait "$store" 2>/dev/null; }
on_exit stop_store
store_answers() { curl -s -o "$WORK/answer" "http://127.0.0.1:$store_port/"; }
wait_for 30 store_answers

# shellcheck disable=SC2086
refused "a wrong secret is told before anything is made" "check secretkey" \
    env DTR_S3_SECRET_KEY=wrong "$dtr" install --data-dir "$data" --admin-password "$password" $place $bucket
# shellcheck disable=SC2086
refused "a bucket that is not there is told" "no such bucket" \
    "$dtr" install --data-dir "$data" --admin-password "$password" $place ${bucket/images/nowhere}
# shellcheck disable=SC2086
ok "install" "$dtr" install --store etcd $(etcd) --data-dir "$data" --replica-id $id --dtr-external-url "$url" --admin-password "$password" $place $bucket
same "the configuration is for its owner alone" 600 "$(stat -c %a "$data/replica.json")"
ok "a repository" "$dtr" repo create admin/app --data-dir "$data"
layout=$WORK/layout
image_oci "$layout" 1.0
copy() { skopeo copy --quiet "$@"; }
push() { copy --dest-tls-verify=false --dest-creds "admin:$password" "oci:$layout:1.0" "docker://127.0.0.1:$port/admin/app:$1"; }
pull() { rm -rf "$WORK/pulled" && copy --src-tls-verify=false --src-creds "admin:$password" "docker://127.0.0.1:$port/admin/app:$1" "dir:$WORK/pulled"; }
pushed=$(jq -r '.manifests[0].digest' "$layout/index.json")
ok "skopeo pushes" push 1.0
blobs() { find "$WORK/store/images/registry/docker" -type f | wc -l; }
same "the bucket has the blobs, in the layout of distribution" "$(find "$layout/blobs" -type f | wc -l)" "$(($(blobs) + 1))"
same "nothing of an upload is left in it" 0 "$(find "$WORK/store/images/registry/uploads" -type f 2>/dev/null | wc -l)"
same "and no image content on the machine" 0 "$(find "$data" -path '*blobs*' -type f | wc -l)"

# A second replica shares the bucket; its secret comes by the environment, as everywhere.
export UCP_PASSWORD=$password
second_port=$(free_port)
# shellcheck disable=SC2046
join() {
    "$dtr" join --data-dir "$WORK/second" --replica-https-port "$second_port" --replica-http-port 0 --listen-address 127.0.0.1 \
        $(etcd) --ucp-url "$url" --ucp-insecure-tls --ucp-username admin --existing-replica-id $id --replica-id 123456789abc "$@"
}
refused "one without the bucket is refused" "name the same bucket" join
# shellcheck disable=SC2086
refused "and one with another folder of it" "name the same bucket" join ${bucket/registry/elsewhere}
# shellcheck disable=SC2086
ok "a second replica joins" join $bucket
second() { rm -rf "$WORK/pulled" && copy --src-tls-verify=false --src-creds "admin:$password" "docker://127.0.0.1:$second_port/admin/app:1.0" "dir:$WORK/pulled"; }
ok "skopeo pulls from it" second
ok "it is removed again" "$dtr" remove --ucp-url "$url" --ucp-insecure-tls --ucp-username admin --existing-replica-id $id --replica-ids 123456789abc
ok "without taking the content along" "$dtr" destroy --data-dir "$WORK/second" --yes
unset UCP_PASSWORD

# The replica dies.
pid=$(cat "$data/dtr.pid")
kill -9 "$pid"
serving() { curl -sSfk --max-time 5 "$url/_ping"; }
gone() { ! serving; }
wait_for 30 gone
"$dtr" serve --data-dir "$data" >"$WORK/serve.log" 2>&1 &
replica=$!
on_exit kill -9 "$replica"
wait_for 60 serving
ok "skopeo pulls after kill -9 and a start" pull 1.0
same "what was pushed" "$pushed" "$(file_digest "$WORK/pulled/manifest.json")"

# The bucket's server dies: the replica says so, and all is well again afterwards.
stop_store
sick() { ! serving >"$WORK/ping"; }
wait_for 60 sick
pass "the replica is unhealthy without its bucket"
start_store
wait_for 60 serving
ok "skopeo pulls again" pull 1.0

backup() { "$dtr" backup --data-dir "$data" >"$WORK/backup.tar"; }
ok "backup" backup
lacks_secret() { ! grep -aq -- "$DTR_S3_SECRET_KEY" "$WORK/backup.tar" "$WORK/serve.log"; }
ok "neither it nor the log has the bucket's secret" lacks_secret

same "the backup says where the content is" 1 "$("$dtr" backup inspect "$WORK/backup.tar" | grep -c "content .*images")"
# shellcheck disable=SC2086
ok "all of which is there" "$dtr" backup verify "$WORK/backup.tar" $bucket --deep
layer=$(jq -r '.layers[0].digest' "$WORK/pulled/manifest.json")
blob=$(find "$WORK/store/images/registry/docker" -type f -path "*/${layer#sha256:}/*")
mv "$blob" "$WORK/away"
# shellcheck disable=SC2086
refused "what is not is told" "1 missing" "$dtr" backup verify "$WORK/backup.tar" $bucket
mv "$WORK/away" "$blob"

# The machine is lost; the bucket is not.
{ kill -9 "$replica" && wait "$replica"; } 2>/dev/null
rm -rf "$data"
# shellcheck disable=SC2086
without() { "$dtr" restore --data-dir "$WORK/again" --dtr-external-url "$url" $place <"$WORK/backup.tar"; }
refused "a restore without the bucket is refused: none of the content is there" "none of the .* blobs" without
# shellcheck disable=SC2086
restore() { "$dtr" restore --data-dir "$WORK/again" --dtr-external-url "$url" $place $bucket <"$WORK/backup.tar"; }
ok "restore onto the same bucket" restore
ok "skopeo pulls from the restored registry" pull 1.0
same "what was pushed, still" "$pushed" "$(file_digest "$WORK/pulled/manifest.json")"
ok "and pushes to it" push 2.0
# shellcheck disable=SC2086
reconfigure() { "$dtr" reconfigure --data-dir "$WORK/again" --s3-bucket "$1" --s3-endpoint "http://127.0.0.1:$store_port" --s3-access-key tester --s3-root registry; }
refused "another bucket without the content is refused" "storage-migrated" reconfigure other
ok "the same bucket is taken, as with another key" reconfigure images
finish
