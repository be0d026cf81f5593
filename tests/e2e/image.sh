#!/usr/bin/env bash
# The product's image: made from files of this machine, started by a real engine.
# shellcheck source=../lib/common.sh
. "$(dirname "$0")/../lib/common.sh"
. "$ROOT/tests/lib/engines.sh"

dtr=${DTR_BIN:-$ROOT/target/debug/dtr}
need "$dtr"
engines_start
build() { in_engines "$ROOT/docker/build-image" --bin-dir "$(dirname "$dtr")"; }
ok "docker builds docker/dtr and docker/ucp from scratch" build
ok "docker run -i --rm docker/dtr starts the program" d run -i --rm docker/dtr --help
ok "docker run -i --rm docker/ucp starts the program" d run -i --rm docker/ucp --help
ok "it reaches the network of the machine" d run -i --rm --network=host docker/dtr --help
finish
