# The agent's image: a binary built elsewhere, on a base with glibc and certificates and without a
# shell. `scripts/image` builds both; the context holds nothing but the binary. Only instructions
# that the builder inside Docker Engine 20.10 knows.

# glibc, because the GPU driver's library is loaded at run time, and that is linked to it.
ARG BASE=gcr.io/distroless/cc-debian12:latest
FROM ${BASE}

ARG VERSION=0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="rental-agent" \
      org.opencontainers.image.description="Runs on a machine whose GPUs are rented out and starts rentals in Docker." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

# Where NVIDIA's runtime is the engine's default, or with `--gpus all`, the agent sees all GPUs and
# the driver's management library, to watch them. Elsewhere these mean nothing.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility,compute

COPY rental-agent /usr/bin/rental-agent

# Docker's socket belongs to root, and whoever may use it is root on the host: another user here
# would be one in name only.
USER 0:0
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/usr/bin/rental-agent", "healthcheck"]
ENTRYPOINT ["/usr/bin/rental-agent"]
