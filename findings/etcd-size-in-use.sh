#!/usr/bin/env bash
# One would guess: once a compaction that was waited for ("physical") has returned, dbSizeInUse says how much is still in use.
# What happens: it stays as it was, however long one waits, until the next write; then it falls.
#
# etcd-server 3.4.23-4+b4 of Debian 12 (needs apt-get, curl, jq). Whoever watches dbSizeInUse to decide whether a compaction
# made room sees none on a member that takes no writes, as one whose quota is full.
set -eu -o pipefail
work=$(mktemp -d)
etcd=
trap '[ -z "$etcd" ] || kill "$etcd"; wait; rm -rf "$work"' EXIT
(cd "$work" && chmod 755 . && apt-get download -qq "etcd-server=3.4.23-4+b4" >/dev/null 2>&1 && dpkg -x etcd-server_*.deb root)
"$work/root/usr/bin/etcd" --version | sed -n 1p
"$work/root/usr/bin/etcd" --data-dir "$work/data" --listen-client-urls http://127.0.0.1:23790 --advertise-client-urls http://127.0.0.1:23790 \
    --listen-peer-urls http://127.0.0.1:23800 --initial-advertise-peer-urls http://127.0.0.1:23800 \
    --initial-cluster default=http://127.0.0.1:23800 >"$work/log" 2>&1 &
etcd=$!
call() { curl -sf "http://127.0.0.1:23790/v3/$1" -d "${2:-{\}}"; }
in_use() { call maintenance/status | jq -r .dbSizeInUse; }
for _ in $(seq 100); do call maintenance/status >/dev/null && break; sleep 0.1; done

head -c 100000 /dev/urandom | base64 -w0 >"$work/value"
for n in $(seq 60); do
    jq -n --arg key "$(printf '%s' "key$n" | base64)" --rawfile value "$work/value" '{key: $key, value: $value}' >"$work/put"
    curl -sf http://127.0.0.1:23790/v3/kv/put --data-binary "@$work/put" >/dev/null
done
revision=$(call kv/deleterange "$(jq -n --arg key "$(printf key | base64)" --arg until "$(printf kez | base64)" '{key: $key, range_end: $until}')" |
    jq -r .header.revision)
call kv/compaction "{\"revision\": \"$revision\", \"physical\": true}" >/dev/null
after=$(in_use)
sleep 3 # to show that time alone changes nothing
later=$(in_use)
call kv/put "{\"key\": \"$(printf other | base64)\", \"value\": \"\"}" >/dev/null
for _ in $(seq 50); do written=$(in_use); [ "$written" -ge "$((after / 2))" ] || break; sleep 0.1; done
echo "in use after the compaction: $after, 3 s later: $later, after one small write: $written"
if [ "$later" -lt "$((after / 2))" ] || [ "$written" -ge "$((after / 2))" ]; then
    echo "this changed"
    exit 1
fi
