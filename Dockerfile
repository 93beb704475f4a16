# Two stages: `builder` creates a virtual environment from the lock files; the final image has Debian's
# Python and that environment, without pip, compilers or a login account. A release pins BASE by its
# digest (scripts/base-image).
ARG BASE=debian:trixie-slim

FROM ${BASE} AS builder

# Uses the base image's extra CA certificates (/usr/local/share/ca-certificates), for a package index
# behind a proxy with its own CA.
RUN apt-get update \
    && apt-get install -y --no-install-recommends binutils ca-certificates python3 python3-venv \
    && update-ca-certificates \
    && rm -rf /var/lib/apt/lists/*

# For a build that has to use another package index.
ARG PIP_INDEX_URL
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /build
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv tools \
    && tools/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock \
    && python3 -m venv --without-pip /opt/sftp-gateway \
    && tools/bin/pip --python /opt/sftp-gateway/bin/python install \
        --require-hashes --only-binary :all: --no-compile -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY sftp_gateway sftp_gateway
# Removes Cython sources, debugging symbols (14 MB in uvloop's wheel) and the dependencies' commands.
# Bytecode is never checked against the sources, because the image is read-only.
RUN tools/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /opt/sftp-gateway/bin/python install \
        --no-deps --no-index --no-compile dist/*.whl \
    && cd /opt/sftp-gateway \
    && find . -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -delete \
    && find . -type d -name tests -prune -exec rm -r {} + \
    && find bin -type f ! -name sftp-gateway -delete \
    && find . -name '*.so' -exec strip --strip-unneeded {} + \
    && bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash lib

FROM ${BASE}

RUN apt-get update \
    && apt-get install -y --no-install-recommends libpython3-stdlib python3-minimal \
    && rm -rf /var/lib/apt/lists/* /usr/lib/python3.*/test /usr/lib/python3.*/pydoc_data \
    # Debian compiles only some modules. Compiling all saves 0.2 s at every start and health check.
    && python3 -m compileall -q -j 0 /usr/lib/python3.* \
    && groupadd --gid 10001 sftp-gateway \
    && useradd --uid 10001 --gid 10001 --no-log-init --home-dir /srv/sftp-gateway \
        --shell /usr/sbin/nologin sftp-gateway \
    && mkdir -p /srv/sftp-gateway/config /srv/sftp-gateway/keys /srv/sftp-gateway/shared \
    # For the access log and the history; writable for any user.
    && mkdir -m 1777 /srv/sftp-gateway/logs /srv/sftp-gateway/state

COPY --from=builder /opt/sftp-gateway /opt/sftp-gateway

LABEL org.opencontainers.image.title="sftp-gateway" \
      org.opencontainers.image.description="A read-only SFTP server for workers that mount with stock sshfs" \
      org.opencontainers.image.licenses="Apache-2.0"

# The metrics port listens on all of the container's interfaces; `docker run -p` or the compose file
# restricts where it is published. `container` distinguishes gateways inside and outside Docker, which
# must not serve one folder at the same time.
ENV PATH=/opt/sftp-gateway/bin:$PATH \
    container=docker \
    PYTHONDONTWRITEBYTECODE=1 \
    SFTP_GATEWAY_METRICS_HOST=0.0.0.0

USER 10001:10001
WORKDIR /srv/sftp-gateway
EXPOSE 2222 9222
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 \
    CMD ["sftp-gateway", "healthcheck"]
ENTRYPOINT ["/opt/sftp-gateway/bin/sftp-gateway"]
CMD ["serve"]
