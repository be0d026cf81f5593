# The images docker/dtr and docker/ucp: the two programs and what they need from the machine they were built on, and
# nothing else. No base image is pulled; docker/build-image makes the context (its folder rootfs) and calls docker.
FROM scratch AS base
COPY rootfs/ /
ENV PATH=/usr/local/bin

FROM base AS ucp
VOLUME /var/lib/ucp
EXPOSE 443
ENTRYPOINT ["/usr/local/bin/ucp"]

FROM base AS dtr
# etcd, for replicas that share one: docs/replicas.md.
COPY etcd/ /
VOLUME /var/lib/dtr
EXPOSE 80 443 2379 2380
ENTRYPOINT ["/usr/local/bin/dtr"]
