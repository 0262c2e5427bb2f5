# The leader of a gowork cluster. From the repository's root:
#   docker build -f deploy/docker/leader.Dockerfile -t gowork-leader .
# The base has Python 3.11 or later, with its module venv.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# Everything that is not gowork's comes in these versions, with these hashes, and as wheels: nothing is compiled.
COPY deploy/docker/build.lock deploy/docker/leader.lock ./
RUN python3 -m venv /build \
    && python3 -m venv --without-pip /opt/gowork \
    && /build/bin/pip install --quiet --only-binary :all: --require-hashes -r build.lock \
    && /build/bin/pip --python /opt/gowork/bin/python3 install --quiet --only-binary :all: --require-hashes -r leader.lock
COPY packages packages
COPY plugins plugins
RUN /build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheels \
        ./packages/gowork-proto \
        ./packages/gowork-base \
        ./packages/gowork-leader \
    && /build/bin/pip --python /opt/gowork/bin/python3 install --quiet --no-index --no-deps /wheels/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="gowork-leader" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/gowork/gowork"
COPY --from=build /opt/gowork /opt/gowork
# The user has no entry in /etc/passwd, and so no home. Nothing but /tmp and /data need be writable.
ENV PATH=/opt/gowork/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp
RUN install -d -o 10000 -g 10000 -m 0700 /data
ENV GOWORK_DATA_DIR=/data
VOLUME /data
EXPOSE 50051 50052 9464
USER 10000:10000
# By default it listens on the container's 127.0.0.1 alone: give --cluster-listen and its like.
ENTRYPOINT ["gowork-leader"]
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 CMD ["gowork-leader", "--check"]
