#!/usr/bin/env bash
# Archives as files: encrypted by the product and opened by the real age, and the other way round; what is said of a wrong
# passphrase, a cut stream, a flipped bit, a foreign file; --output, --report, --with-images, copied from by skopeo.
# timeout: 240
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
. "$ROOT/tests/lib/images.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" skopeo jq tar age age-keygen script
port=$(free_port)
url=https://127.0.0.1:$port
data=$WORK/dtr
password="a-password-$RANDOM"
stop_replica() { "$dtr" destroy --data-dir "$data" --yes; }
on_exit stop_replica
"$dtr" install --data-dir "$data" --dtr-external-url "$url" --replica-https-port "$port" --replica-http-port 0 \
    --listen-address 127.0.0.1 --admin-password "$password" >"$WORK/install.log" 2>&1 || bail "install: $(tail -n 3 "$WORK/install.log")"
"$dtr" repo create admin/app --data-dir "$data" >/dev/null
layout=$WORK/layout
image_oci "$layout" 1.0
image=$(jq -r '.manifests[0].digest' "$layout/index.json")
copy() { skopeo copy --quiet "$@"; }
ok "skopeo pushes" copy --dest-tls-verify=false --dest-creds "admin:$password" "oci:$layout:1.0" "docker://127.0.0.1:$port/admin/app:1.0" ||
    bail "nothing works without an image"
backup() { "$dtr" backup --data-dir "$data" "$@"; }
verify() { "$dtr" backup verify "$@"; }
# says NAME CODE PATTERN COMMAND...: refused with this exit code and these words.
says() {
    local name=$1 code=$2 pattern=$3 status
    shift 3
    "$@" >"$WORK/said" 2>&1
    status=$?
    if [ "$status" -eq "$code" ] && grep -Eq -- "$pattern" "$WORK/said"; then
        pass "$name"
    else
        fail "$name"
        note "exit code $status instead of $code, or not $pattern: $(tail -n 3 "$WORK/said")"
    fi
}

# age, both ways.
age-keygen -o "$WORK/key" 2>/dev/null
recipient=$(age-keygen -y "$WORK/key")
age-keygen -o "$WORK/other-key" 2>/dev/null
echo "correct horse battery staple" >"$WORK/passphrase"
echo "wrong horse" >"$WORK/wrong-passphrase"
# typed COMMAND LINE: on a terminal on which the passphrase is typed, twice.
typed() { cat "$WORK/passphrase" "$WORK/passphrase" | timeout 60 script -qec "$1" /dev/null; }
ok "encrypted to a key" backup --encrypt-to "$recipient" --output "$WORK/to-key.age"
opened() { age -d -i "$WORK/key" "$WORK/to-key.age" >"$WORK/opened.tar" && verify "$WORK/opened.tar"; }
ok "age opens it" opened
ok "and so does verify" verify "$WORK/to-key.age" --identity-file "$WORK/key"
ok "and inspect" "$dtr" backup inspect "$WORK/to-key.age" --identity-file "$WORK/key"
streamed() { backup --passphrase-file "$WORK/passphrase" >"$WORK/passphrase.age"; }
ok "encrypted with a passphrase" streamed
by_age() { typed "age -d -o $WORK/by-age.tar $WORK/passphrase.age" && verify "$WORK/by-age.tar"; }
ok "age opens it, asking for the passphrase" by_age
ok "and so does verify" verify "$WORK/passphrase.age" --passphrase-file "$WORK/passphrase"
ok "a plain one" backup --output "$WORK/plain.tar" --report "$WORK/report.json"
ok "encrypted by age to a key" age -r "$recipient" -o "$WORK/age-key.age" "$WORK/plain.tar"
ok "verify opens it" verify "$WORK/age-key.age" --identity-file "$WORK/key"
armored() { age -a -r "$recipient" -o "$WORK/armored.age" "$WORK/plain.tar" && verify "$WORK/armored.age" --identity-file "$WORK/key"; }
ok "verify opens age's text form" armored
ok "encrypted by age with a passphrase" typed "age -p -o $WORK/age-passphrase.age $WORK/plain.tar"
ok "verify opens it" verify "$WORK/age-passphrase.age" --passphrase-file "$WORK/passphrase"
says "without a key it says which flags open it" 6 "identity-file" verify "$WORK/to-key.age"
says "another key" 6 "key" verify "$WORK/to-key.age" --identity-file "$WORK/other-key"
says "a wrong passphrase" 6 "passphrase" verify "$WORK/passphrase.age" --passphrase-file "$WORK/wrong-passphrase"
says "no passphrase" 6 "passphrase" verify "$WORK/passphrase.age"
says "a recipient that is none" 2 "age1nonsense" backup --encrypt-to age1nonsense --output "$WORK/never"
says "a passphrase file that is not there" 1 "passphrase-nowhere" backup --passphrase-file "$WORK/passphrase-nowhere" --output "$WORK/never"

# Damage, as a person reads it.
half=$(($(stat -c %s "$WORK/plain.tar") / 2))
head -c "$half" "$WORK/plain.tar" >"$WORK/cut.tar"
says "a cut stream" 3 "cut|ends" verify "$WORK/cut.tar"
head -c 1500 "$WORK/to-key.age" >"$WORK/cut.age"
says "a cut stream that is encrypted" 3 "cut|ends" verify "$WORK/cut.age" --identity-file "$WORK/key"
flip() {
    cp "$1" "$2"
    printf "\\$(printf %o $(($(od -An -tu1 -j "$3" -N 1 "$1") ^ 1)))" | dd of="$2" bs=1 seek="$3" conv=notrunc status=none
}
tag_line=$(grep -abo '"tag"' "$WORK/plain.tar" | tail -n 1 | cut -d: -f1)
flip "$WORK/plain.tar" "$WORK/flipped.tar" "${tag_line:-$half}"
says "a flipped bit names the entry" 3 "metadata/" verify "$WORK/flipped.tar"
flip "$WORK/to-key.age" "$WORK/flipped.age" $(($(stat -c %s "$WORK/to-key.age") - 700))
says "a flipped bit in what is encrypted" 3 "damaged|altered|does not" verify "$WORK/flipped.age" --identity-file "$WORK/key"
tar -C "$layout" -cf "$WORK/foreign.tar" index.json
says "a foreign tar" 3 "index.json" verify "$WORK/foreign.tar"
says "no tar at all" 3 "not a tar" verify "$0"
: >"$WORK/empty"
says "an empty file" 3 "empty" verify "$WORK/empty"
appended() { cat "$WORK/plain.tar" "$0" >"$WORK/longer.tar" && verify "$WORK/longer.tar"; }
says "something behind the end" 3 "after|behind|end" appended
says "a file that is not there" 1 "nowhere.tar" verify "$WORK/nowhere.tar"
says "another signer" 4 "signed by" verify "$WORK/plain.tar" --signed-by "$(printf '0%.0s' $(seq 64))"
restore() { "$dtr" restore --data-dir "$WORK/again" --ucp-url "$url" --ucp-insecure-tls --ucp-username admin --ucp-password "$password" --no-start --dtr-load-balancer "$url" "${@:2}" <"$1"; }
says "without calling the backup a bad one" 4 "^dtr: .*plain.tar is signed by" verify "$WORK/plain.tar" --signed-by "$(printf '0%.0s' $(seq 64))"
dash() { (cd "$WORK" && backup --output - >"$WORK/dash.tar" && verify - <"$WORK/dash.tar" && ! test -e "$WORK/-"); }
ok "- is standard output" dash
says "another replica than that of the folder" 4 "holds replica" backup --existing-replica-id ffffffffffff --output "$WORK/never"
mkdir "$WORK/thesis" && echo years >"$WORK/thesis/text"
own_folder() { "$dtr" restore --data-dir "$WORK/thesis" --no-start <"$WORK/plain.tar"; }
says "a restore into somebody's own folder" 4 "\"text\", which is not a replica's" own_folder
for bad in cut.tar flipped.tar foreign.tar empty; do
    says "a restore from $bad is refused" 3 "." restore "$WORK/$bad"
done
says "a restore without the key is refused" 6 "identity-file" restore "$WORK/to-key.age"
fails "and leaves nothing" test -e "$WORK/again/store.redb"

# Files and reports.
same "the report says what the file holds" "$(sha256sum "$WORK/plain.tar" | cut -d' ' -f1)" "$(jq -r .sha256 "$WORK/report.json")"
same "no part file is left" 0 "$(find "$WORK" -name '*.part' | wc -l)"
says "a folder that is not there" 1 "nowhere/b.tar" backup --output "$WORK/nowhere/b.tar"
if [ -e /dev/full ]; then
    full() { backup >/dev/full; }
    says "a full disk" 1 "not usable as one.*No space" full
fi
closed() { backup --with-images | head -c 100 >/dev/null; return "${PIPESTATUS[0]}"; }
says "a reader that goes away" 1 "not usable as one" closed
same "list remembers the backups" true "$("$dtr" backup list --data-dir "$data" -o json | jq 'length > 3')"

# The images inside.
ok "a backup with images" backup --with-images --output "$WORK/images.tar"
unpack() { mkdir "$WORK/unpacked" && tar -xf "$WORK/images.tar" -C "$WORK/unpacked"; }
ok "tar unpacks it" unpack
images=$(echo "$WORK"/unpacked/*/images)
ok "skopeo copies from the folder" copy "oci:$images:admin/app:1.0" "dir:$WORK/from-archive"
same "with the same digest" "$image" "$(file_digest "$WORK/from-archive/manifest.json")"
ok "the archive matches the storage" verify "$WORK/images.tar" --storage "$data/blobs" --deep
mv "$data/blobs" "$WORK/blobs-away"
mkdir "$WORK/empty-storage"
says "blobs that a storage lacks are listed" 5 "admin/app" verify "$WORK/images.tar" --storage "$WORK/empty-storage"
mv "$WORK/blobs-away" "$data/blobs"

# Lost, and back from the encrypted archive.
encrypted() { backup --with-images --encrypt-to "$recipient" --output "$WORK/whole.age"; }
ok "a whole one, encrypted" encrypted
ok "destroy" "$dtr" destroy --data-dir "$data" --yes
place="--replica-https-port $port --replica-http-port 0 --listen-address 127.0.0.1"
# shellcheck disable=SC2086
back() { "$dtr" restore --data-dir "$data" --identity-file "$WORK/key" --dtr-load-balancer "$url" --report "$WORK/restored.json" $place <"$WORK/whole.age"; }
ok "restore from it" back
same "the report counts the tag" 1 "$(jq '.records["metadata/tags"]' "$WORK/restored.json")"
ok "skopeo pulls" copy --src-tls-verify=false --src-creds "admin:$password" "docker://127.0.0.1:$port/admin/app:1.0" "dir:$WORK/pulled"
same "the digest is the one that was pushed" "$image" "$(file_digest "$WORK/pulled/manifest.json")"
finish
