# Real images from files of this machine; nothing is pulled. Source after common.sh (and engines.sh for image_build).
#
#     image_context DIR [PROGRAM...]   # a build context: FROM scratch, one COPY (so one layer) per program with its libraries
#     image_build NAME DIR             # docker build of it
#     image_oci DIR TAG                # the same content as an OCI layout made by hand, where there is no engine
# shellcheck shell=bash

# The shared libraries and the loader that a program needs, one path per line.
program_libraries() { ldd "$1" 2>/dev/null | grep -o '/[^ ]*' | grep -v ':$' | sort -u; }

image_context() {
    local dir=$1 program library
    shift
    [ $# -gt 0 ] || set -- "$(command -v ls)" "$(command -v sha256sum)" "$(command -v openssl)"
    mkdir -p "$dir"
    echo "FROM scratch" >"$dir/Dockerfile"
    for program in "$@"; do
        local part
        part="part-$(basename "$program")"
        mkdir -p "$dir/$part/bin"
        cp -L "$program" "$dir/$part/bin/"
        for library in $(program_libraries "$program"); do
            mkdir -p "$dir/$part$(dirname "$library")"
            cp -L "$library" "$dir/$part$library"
        done
        echo "COPY $part /" >>"$dir/Dockerfile"
    done
    cat >>"$dir/Dockerfile" <<DOCKERFILE
LABEL origin="files of this machine"
ENTRYPOINT ["/bin/$(basename "$1")"]
DOCKERFILE
}

image_build() { d build -q -t "$1" "$2"; }

# The digest of a file as OCI writes it.
file_digest() { echo "sha256:$(sha256sum "$1" | cut -d' ' -f1)"; }

# Moves a file into the layout's blobs and prints "digest size".
image_blob() {
    local digest size
    digest=$(file_digest "$2")
    size=$(stat -c %s "$2")
    mv "$2" "$1/blobs/sha256/${digest#sha256:}"
    echo "$digest $size"
}

image_oci() {
    local dir=$1 tag=$2 context="$WORK/oci-context.$RANDOM" part layers="" diffs="" digest size diff
    need jq tar gzip
    image_context "$context"
    mkdir -p "$dir/blobs/sha256"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
    for part in "$context"/part-*; do
        tar -C "$part" --sort=name --owner=0 --group=0 --mtime=@0 -cf "$context/layer.tar" .
        diff=$(file_digest "$context/layer.tar")
        gzip -n -f "$context/layer.tar"
        read -r digest size <<<"$(image_blob "$dir" "$context/layer.tar.gz")"
        layers="$layers${layers:+,}{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"$digest\",\"size\":$size}"
        diffs="$diffs${diffs:+,}\"$diff\""
    done
    printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/bin/ls"]},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
        "$diffs" >"$context/config.json"
    read -r digest size <<<"$(image_blob "$dir" "$context/config.json")"
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%s},"layers":[%s]}' \
        "$digest" "$size" "$layers" >"$context/manifest.json"
    read -r digest size <<<"$(image_blob "$dir" "$context/manifest.json")"
    printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"%s"}}]}' \
        "$digest" "$size" "$tag" >"$dir/index.json"
    rm -rf "$context"
}
