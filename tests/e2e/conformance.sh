#!/usr/bin/env bash
# The tests of OCI's distribution specification against one replica, in the released version and in the one that is being
# written; and that this check can fail.
# timeout: 420
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
. "$ROOT/tests/lib/conformance.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr" curl conformance
port=$(free_port)
password="a-password-$RANDOM"
data=$WORK/dtr
stop_replica() { "$dtr" destroy --data-dir "$data" --yes; }
on_exit stop_replica
"$dtr" install --data-dir "$data" --dtr-external-url "https://127.0.0.1:$port" --listen-address 127.0.0.1 --admin-password "$password" \
    --replica-https-port "$port" --replica-http-port 0 >"$WORK/install.log" 2>&1 || bail "install: $(tail -n 3 "$WORK/install.log")"

# Three ways in which nothing conforms: nobody listens, the certificate is of an authority that is not known, and a server
# answers that is no registry.
curl -skSf "https://127.0.0.1:$port/ca" -o "$WORK/conformance-ca.pem" || bail "/ca does not answer"
fails "the check fails where nobody listens" conformance_run "127.0.0.1:$(free_port)" closed 1.1
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$WORK/other.key" -out "$WORK/other.pem" -days 2 -subj /CN=127.0.0.1 \
    -addext subjectAltName=IP:127.0.0.1 2>/dev/null || bail "no certificate"
unknown_authority() {
    cp "$WORK/conformance-ca.pem" "$WORK/right.pem" && cp "$WORK/other.pem" "$WORK/conformance-ca.pem"
    conformance_run "127.0.0.1:$port" authority 1.1
}
fails "the check fails where the authority is unknown" unknown_authority
no_registry=$(free_port)
openssl s_server -accept "127.0.0.1:$no_registry" -cert "$WORK/other.pem" -key "$WORK/other.key" -www >/dev/null 2>&1 &
on_exit stop_pid $!
wait_for 10 port_open "$no_registry" || bail "no server"
fails "the check fails at a server that is no registry" conformance_run "127.0.0.1:$no_registry" other 1.1

conforms "OCI's tests of version 1.1 pass" "127.0.0.1:$port" released 1.1
too_few() { CONFORMANCE_LEAST=1000000 conformance_verdict 0 "$WORK/conformance-released/junit.xml" 1.1; }
fails "the check fails when too few cases passed" too_few
fails "the check fails by the exit status alone" conformance_verdict 1 "$WORK/conformance-released/junit.xml" 1.1
conforms "OCI's tests of the coming version pass" "127.0.0.1:$port" dev dev
finish
