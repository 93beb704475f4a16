# Two stages: `builder` makes a virtual environment from the lock files; the final image is
# Debian's own Python, that environment and nothing else: no pip, no compiler, no shell account.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS builder

# certs.d: extra CA certificates of the base image count, for an index behind a proxy of yours.
RUN apt-get update \
    && apt-get install -y --no-install-recommends binutils ca-certificates python3 python3-venv \
    && update-ca-certificates \
    && rm -rf /var/lib/apt/lists/*

# Another package index, when the build has to use one.
ARG PIP_INDEX_URL
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /build
COPY requirements.lock requirements-build.lock ./
RUN python3 -m venv tools \
    && tools/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock \
    && python3 -m venv --without-pip /opt/sftp-gateway \
    && tools/bin/pip --python /opt/sftp-gateway/bin/python install \
        --require-hashes --only-binary :all: --no-compile -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY sftp_gateway sftp_gateway
RUN tools/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir dist . \
    && tools/bin/pip --python /opt/sftp-gateway/bin/python install \
        --no-deps --no-index --no-compile dist/*.whl
