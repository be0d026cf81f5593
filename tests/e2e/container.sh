#!/usr/bin/env bash
# The registry in a container, as docs/install.md says: state in a named volume, ports published, backup and restore with
# the arguments after docker run; and the first steps of README.md, word for word.
# timeout: 420
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
own_network 192.0.2.1
. "$ROOT/tests/lib/engines.sh"
. "$ROOT/tests/lib/images.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" skopeo jq curl
host=registry.example.com
url=https://$host
export DTR_ADMIN_PASSWORD="a-password-$RANDOM"
export UCP_PASSWORD=$DTR_ADMIN_PASSWORD
export ENGINES_ADDRESS=192.0.2.1 ENGINES_BRIDGE=1 ENGINE_TIMEOUT=60
engines_start "$host"
image_context "$WORK/context"
ok "the image is built from files of this machine" in_engines "$ROOT/docker/build-image" --bin-dir "$(dirname "$dtr")" || bail "nothing to run"

answers() { curl -sSf -k --max-time 5 --resolve "$host:443:192.0.2.1" "$url/_ping"; }
remove() { d rm -f dtr && d volume rm dtr; }
on_exit remove
# serve ARGUMENTS...: the line of the documents. The container is found by the name that clients use.
serve() {
    d run -d --name dtr --restart unless-stopped -v dtr:/var/lib/dtr -p 443:443 -p 80:80 --stop-timeout 60 docker/dtr serve &&
        wait_for 30 answers
}
logs() { d logs dtr 2>&1 | tail -n 5; }

ok "a named volume" d volume create dtr
ok "install into it" d run --rm -v dtr:/var/lib/dtr -e DTR_ADMIN_PASSWORD docker/dtr install --no-start --dtr-external-url "$url"
refused "a second install is refused" "not empty" d run --rm -v dtr:/var/lib/dtr -e DTR_ADMIN_PASSWORD docker/dtr install --no-start
if ! ok "serve" serve; then logs; finish; fi
same "port 80 sends clients to HTTPS" "301 $url/v2/" "$(curl -s -o /dev/null -w '%{http_code} %{redirect_url}' --resolve "$host:80:192.0.2.1" "http://$host/v2/")"
ok "status in the container" d exec dtr dtr status --data-dir /var/lib/dtr

# The first steps of README.md; curl resolves the name in the engines' namespace, and sudo is not needed.
first_steps() {
    sed -n '/^## First steps with docker$/,/^## /{/^```sh$/,/^```$/{/^```/d;p}}' "$ROOT/README.md" |
        sed -e '/^cargo build/d' -e '/install target/d' -e '/dtr install/d' -e '/^export UCP_PASSWORD=/d' -e 's/^sudo //' \
            -e 's/^docker login -u admin [^ ]*/& --password-stdin <<<"$UCP_PASSWORD"/'
}
first_steps >"$WORK/first-steps"
grep -q '^docker push' "$WORK/first-steps" || bail "README.md has no first steps"
walk_first_steps() {
    mkdir -p "$WORK/here/bin" && cd "$WORK/here" && ln -sf "$dtr" bin/dtr
    in_engines env PATH="$WORK/here/bin:/usr/bin:$PATH" bash -eux "$WORK/first-steps"
}
ok "an image called web" image_build web:1.0 "$WORK/context"
ok "the first steps of README.md, word for word" walk_first_steps
# The lines about a backup, with the names in capitals filled in.
backup_lines() {
    sed -n '/^## Backup and restore in ten lines$/,/^## /{/^```sh$/,/^```$/{/^```/d;p}}' "$ROOT/README.md" | grep -v '^dtr restore' |
        sed -e "s|--ucp-url U|--ucp-url $url|" -e 's|--ucp-username A|--ucp-username admin|' -e "s|--existing-replica-id R|--existing-replica-id $1|"
}
walk_backup_lines() {
    backup_lines "$(d exec dtr dtr status --data-dir /var/lib/dtr -o json | jq -r '.replica_health | keys[0]')" >"$WORK/backup-lines"
    grep -q '^dtr backup  *--ucp-url' "$WORK/backup-lines" && in_engines env PATH="$WORK/here/bin:/usr/bin:$PATH" bash -eux "$WORK/backup-lines" &&
        [ "$(stat -c %a "$WORK/here/backup.tar")" = 600 ]
}
cd "$WORK/here" && ok "the lines about a backup of README.md, word for word" walk_backup_lines
cd "$ROOT" || exit 1
digest() { s inspect --raw "docker://$host/engineering/web:1.0" | sha256sum | cut -d' ' -f1; }
pushed=$(digest)

ok "docker stop ends it cleanly" d stop dtr
same "with exit code 0" 0 "$(d inspect -f '{{.State.ExitCode}}' dtr)"
start_again() { d start dtr && wait_for 30 answers; }
ok "docker start" start_again
same "the image is still there" "$pushed" "$(digest)"
killed() { d kill dtr && d start dtr && wait_for 30 answers; }
ok "killed and started" killed
same "the image is still there" "$pushed" "$(digest)"

# Backup and restore, as documented.
cp "$WORK/here/ca.pem" "$WORK/ca.pem"
id=$(d exec dtr dtr status --data-dir /var/lib/dtr -o json | jq -r '.replica_health | keys[0]')
backup() {
    d run -i --rm --log-driver none --add-host "$host:192.0.2.1" -e UCP_PASSWORD docker/dtr backup --ucp-url "$url" \
        --ucp-ca "$(cat "$WORK/ca.pem")" --existing-replica-id "$id" --ucp-username admin --with-images >"$WORK/backup.tar"
}
ok "backup over the network, from a container" backup
ok "it verifies" "$dtr" backup verify "$WORK/backup.tar"
verify() { d run -i --rm docker/dtr backup verify - <"$WORK/backup.tar"; }
ok "also in a container" verify
# Not through in_engines: its limit takes the terminal away from what it runs.
with_terminal() {
    timeout 60 script -qec "nsenter -t $ENGINES_PID -m /usr/bin/docker -H unix://$ENGINES/docker.sock run -it --rm \
        -v dtr:/var/lib/dtr docker/dtr backup --data-dir /var/lib/dtr" /dev/null </dev/null
}
refused "with -t it is refused" "run without -t" with_terminal
ok "everything is lost" remove
ok "an empty volume" d volume create dtr
restore() {
    d run -i --rm -v dtr:/var/lib/dtr -e UCP_PASSWORD docker/dtr restore --no-start --ucp-url "$url" \
        --ucp-ca "$(cat "$WORK/ca.pem")" --ucp-username admin --dtr-external-url "$url" <"$WORK/backup.tar"
}
ok "restore into it" restore
ok "serve what was restored" serve
same "the image is back, with the same digest" "$pushed" "$(digest)"
engines_forget_web() { d rmi -f "$host/engineering/web:1.0" web:1.0; }
engines_forget_web >/dev/null 2>&1
ok "docker pulls it, with the certificate and the login of before" d pull "$host/engineering/web:1.0"
finish
