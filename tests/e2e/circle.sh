#!/usr/bin/env bash
# The whole circle with accounts of the registry's own: push, back up while it runs, damage, lose everything, restore, pull.
# The lines for backup and restore are those of the documents, also from a container.
# timeout: 420
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
. "$ROOT/tests/lib/engines.sh"
. "$ROOT/tests/lib/images.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" skopeo jq tar
port=$(free_port)
url=https://127.0.0.1:$port
password="a-password-$RANDOM"
id=0123456789ab
data=$WORK/dtr
admin="--ucp-url $url --ucp-insecure-tls --ucp-username admin --ucp-password $password"
place="--replica-https-port $port --replica-http-port 0 --listen-address 127.0.0.1"
stop_replica() { "$dtr" destroy --data-dir "$1" --yes >/dev/null 2>&1; }
on_exit stop_replica "$data"
on_exit stop_replica "$WORK/again"

# shellcheck disable=SC2086
ok "install" "$dtr" install --data-dir "$data" --replica-id $id --dtr-external-url "$url" --admin-password "$password" $place
# shellcheck disable=SC2086
refused "a second install in the same folder is refused" "is not empty" \
    "$dtr" install --data-dir "$data" --admin-password x $place
ok "a repository, made over the local socket without a password" "$dtr" repo create admin/app --data-dir "$data"
layout=$WORK/layout
image_oci "$layout" 1.0
copy() { skopeo copy --quiet "$@"; }
ok "skopeo pushes" copy --dest-tls-verify=false --dest-creds "admin:$password" "oci:$layout:1.0" "docker://127.0.0.1:$port/admin/app:1.0"

# The lines of the documents, as they are.
# shellcheck disable=SC2086
backup() { "$dtr" backup --ucp-url "$url" --ucp-insecure-tls --existing-replica-id $id --ucp-username admin --ucp-password "$password" "$@"; }
plain() { backup >"$WORK/backup.tar"; }
ok "backup, with the password on the line" plain
by_environment() {
    UCP_PASSWORD=$password "$dtr" backup --ucp-url "$url" --ucp-insecure-tls --existing-replica-id $id --ucp-username admin >"$WORK/backup-2.tar"
}
ok "backup, with the password in UCP_PASSWORD" by_environment
ok "tar lists it" tar -tf "$WORK/backup.tar"
ok "verify" "$dtr" backup verify "$WORK/backup.tar" --storage "$data/blobs" --deep
ok "inspect" "$dtr" backup inspect "$WORK/backup.tar" -o json
with_images() { backup --with-images >"$WORK/images.tar"; }
ok "backup with images" with_images
unpack() { mkdir "$WORK/unpacked" && tar -xf "$WORK/images.tar" -C "$WORK/unpacked"; }
ok "it unpacks" unpack
images=$(echo "$WORK"/unpacked/*/images)
ok "skopeo copies from the unpacked folder" copy "oci:$images:admin/app:1.0" "dir:$WORK/from-archive"
locally() { "$dtr" backup --data-dir "$data" --output "$WORK/local.tar" --report "$WORK/report.json"; }
ok "backup of the local folder needs no password" locally
same "the report counts the tag" 1 "$(jq '.records["metadata/tags"]' "$WORK/report.json")"
same "the file is for its owner alone" 600 "$(stat -c %a "$WORK/local.tar")"
refused "a wrong password is told" "wrong" "$dtr" backup --ucp-url "$url" --ucp-insecure-tls --existing-replica-id $id --ucp-username admin --ucp-password nonsense
refused "a replica that is not there is told" "replica" "$dtr" backup --ucp-url "$url" --ucp-insecure-tls --existing-replica-id ffffffffffff --ucp-username admin --ucp-password "$password"
refused "an untrusted certificate is told" "ucp-ca|ucp-insecure-tls" "$dtr" backup --ucp-url "$url" --existing-replica-id $id --ucp-username admin --ucp-password "$password"

# Encrypted.
echo "correct horse battery" >"$WORK/passphrase"
encrypted() { backup --passphrase-file "$WORK/passphrase" --output "$WORK/secret.tar"; }
ok "an encrypted backup" encrypted
refused "it does not open without the passphrase" "encrypted|passphrase" "$dtr" backup verify "$WORK/secret.tar"
ok "it opens with it" "$dtr" backup verify "$WORK/secret.tar" --passphrase-file "$WORK/passphrase"

# Damage.
head -c 9000 "$WORK/backup.tar" >"$WORK/cut.tar"
refused "a cut archive is refused" "cut|end|ends" "$dtr" backup verify "$WORK/cut.tar"
cp "$WORK/backup.tar" "$WORK/flipped.tar"
printf 'X' | dd of="$WORK/flipped.tar" bs=1 seek=20000 conv=notrunc status=none
refused "a flipped byte is refused" "\." "$dtr" backup verify "$WORK/flipped.tar"
# shellcheck disable=SC2086
from_damaged() { "$dtr" restore --no-start --data-dir "$WORK/again" $admin --dtr-load-balancer "127.0.0.1:$port" $place <"$WORK/cut.tar"; }
refused "a restore from a cut archive is refused" "restore" from_damaged

# In a container: the same arguments after docker run -i --rm.
engines_start docker
ok "the image is built from files of this machine" in_engines "$ROOT/docker/build-image" --bin-dir "$(dirname "$dtr")"
contained() {
    d run -i --rm --network=host -e UCP_PASSWORD="$password" docker/dtr backup --ucp-url "$url" --ucp-insecure-tls \
        --existing-replica-id $id --ucp-username admin >"$WORK/contained.tar"
}
ok "backup after docker run" contained
ok "verify it" "$dtr" backup verify "$WORK/contained.tar"

# Everything is lost.
ok "destroy" "$dtr" destroy --data-dir "$data" --replica-id $id --yes
refused "nothing answers" "." curl -sSf -k --max-time 5 "$url/_ping"
# shellcheck disable=SC2086
restore() { "$dtr" restore --data-dir "$WORK/again" --ucp-url "$url" --ucp-insecure-tls --ucp-username admin --ucp-password "$password" --dtr-load-balancer "127.0.0.1:$port" $place "$@"; }
without_images() { restore <"$WORK/backup.tar"; }
refused "a restore without any of the content is refused" "none of the .* blobs" without_images
dry() { restore --dry-run <"$WORK/images.tar"; }
ok "a dry run" dry
whole() { restore <"$WORK/images.tar"; }
ok "restore, with the images" whole
ok "skopeo pulls" copy --src-tls-verify=false --src-creds "admin:$password" "docker://127.0.0.1:$port/admin/app:1.0" "dir:$WORK/pulled"
same "the digest is the one that was pushed" "$(jq -r '.manifests[0].digest' "$layout/index.json")" "$(file_digest "$WORK/pulled/manifest.json")"
refused "a second restore over it is refused" "not empty" whole
ok "status" "$dtr" status --data-dir "$WORK/again"
ok "gc, as a dry run" "$dtr" gc --dry-run --data-dir "$WORK/again"
finish
