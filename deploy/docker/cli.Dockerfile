# The command line of gowork. From the repository's root:
#   docker build -f deploy/docker/cli.Dockerfile -t gowork-cli .
# The base has Python 3.11 or later, with its module venv.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# Everything that is not gowork's comes in these versions, with these hashes, and as wheels: nothing is compiled.
COPY deploy/docker/build.lock deploy/docker/cli.lock ./
RUN python3 -m venv /build \
    && python3 -m venv --without-pip /opt/gowork \
    && /build/bin/pip install --quiet --only-binary :all: --require-hashes -r build.lock \
    && /build/bin/pip --python /opt/gowork/bin/python3 install --quiet --only-binary :all: --require-hashes -r cli.lock
COPY packages packages
COPY plugins plugins
RUN /build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheels \
        ./packages/gowork-proto \
        ./packages/gowork-base \
        ./packages/gowork-client \
        ./packages/gowork-cli \
    && /build/bin/pip --python /opt/gowork/bin/python3 install --quiet --no-index --no-deps /wheels/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="gowork-cli" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/gowork/gowork"
COPY --from=build /opt/gowork /opt/gowork
# The user has no entry in /etc/passwd, and so no home. Nothing but /tmp need be writable.
ENV PATH=/opt/gowork/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp
USER 10000:10000
ENTRYPOINT ["gowork"]
CMD ["--help"]
HEALTHCHECK NONE
