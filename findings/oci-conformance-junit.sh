#!/usr/bin/env bash
# One would guess: a JUnit report of OCI's conformance tool has a <failure> element for each case that failed, as JUnit's form has.
# What happens: a failed case has only the attribute status="failure"; the report of a run in which all failed has no such element.
#
# opencontainers/distribution-spec, conformance, v0.0.0-20260831232431-97274622c111 (needs Go and python3). A count of
# "<failure" in junit.xml, which is what most readers of JUnit do, finds nothing wrong in a registry that answers 404 to all.
set -eu -o pipefail
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; chmod -R u+w "$work"; rm -rf "$work"' EXIT
GOBIN=$work/bin GOFLAGS=-modcacherw go install \
    github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111 2>"$work/build.log" ||
    { cat "$work/build.log"; exit 1; }

cat >"$work/nothing.py" <<'PY'
import http.server, sys
class Nothing(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
print(server.server_address[1], flush=True)
server.serve_forever()
PY
python3 "$work/nothing.py" >"$work/port" &
server=$!
for _ in $(seq 50); do [ -s "$work/port" ] && break; sleep 0.1; done

status=0
OCI_REGISTRY=127.0.0.1:$(cat "$work/port") OCI_TLS=disabled OCI_REPO1=a/b OCI_REPO2=a/c OCI_RESULTS_DIR=$work/results \
    timeout 120 "$work/bin/conformance" >"$work/log" 2>&1 || status=$?
report=$work/results/junit.xml
failed=$(grep -c 'status="failure"' "$report" || true)
elements=$(grep -c '<failure' "$report" || true)
echo "exit status $status; cases with status=\"failure\": $failed; <failure> elements: $elements"
if [ "$status" -eq 0 ] || [ "$failed" -le 50 ] || [ "$elements" -ne 0 ]; then
    echo "this changed"
    exit 1
fi
