# Stand-ins for the images that run.sh cannot pull: the same programs from Debian's packages, under the same tags, at
# the places and with the user that the originals have. They show that compose.yaml fits these programs, not those images.
FROM debian:bookworm-slim AS base
RUN apt-get -q update && apt-get -qq -y install --no-install-recommends busybox \
    && ln -s /bin/busybox /usr/local/bin/wget

FROM base AS prometheus
RUN apt-get -qq -y install --no-install-recommends prometheus && install -d -o nobody -g nogroup /prometheus
USER nobody
ENTRYPOINT ["/usr/bin/prometheus"]

FROM base AS alertmanager
RUN apt-get -qq -y install --no-install-recommends prometheus-alertmanager \
    && install -d -o nobody -g nogroup /alertmanager
USER nobody
ENTRYPOINT ["/usr/bin/prometheus-alertmanager"]

FROM base AS node_exporter
RUN apt-get -qq -y install --no-install-recommends prometheus-node-exporter
USER nobody
ENTRYPOINT ["/usr/bin/prometheus-node-exporter"]
