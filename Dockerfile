# The operator's image, for docker build and for buildah bud:
#
#   make image                          with the labels of this checkout
#   docker build -t NAME .              without them
#
# It holds the program, the few libraries that it loads, and the public authorities; no shell, no package
# manager, no user but 65532. For arm64, build on an arm64 machine: a builder of another kind than
# TARGETARCH is refused, for nobody here could try what it makes.

# Debian with Rust; its certificates and libraries go into the image, too.
ARG RUST_IMAGE=rust:1.95-slim-bookworm

FROM ${RUST_IMAGE} AS builder
ARG TARGETARCH
ARG PROFILE=release
ENV CARGO_TARGET_DIR=/target CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
WORKDIR /src
RUN set -eu; \
    case "$(uname -m)" in x86_64) machine=amd64 ;; aarch64) machine=arm64 ;; *) machine=$(uname -m) ;; esac; \
    wanted="${TARGETARCH:-$machine}"; \
    if [ "$machine" != "$wanted" ]; then \
      echo "error: this builder is $machine, and the image is to be $wanted: build it on such a machine" >&2; \
      exit 1; \
    fi

# The dependencies, with sources that say nothing: this layer stays until a manifest or the lock changes.
COPY Cargo.toml Cargo.lock ./
COPY testkit/Cargo.toml testkit/
COPY simulation/Cargo.toml simulation/
RUN set -eu; \
    mkdir -p src testkit/src simulation/src; \
    echo 'fn main() {}' > src/main.rs; \
    touch src/lib.rs testkit/src/lib.rs simulation/src/lib.rs; \
    cargo build --locked --profile "$PROFILE" -p servicenow-credential-operator

COPY src src
# Newer than what was built above, whatever the time of the checkout.
RUN set -eu; \
    find src -name '*.rs' -exec touch {} +; \
    cargo build --locked --profile "$PROFILE" -p servicenow-credential-operator

# The file system of the image. The C library finds names by nsswitch.conf: without it, /etc/hosts would
# be asked after DNS.
ARG SOURCE_DATE_EPOCH=0
RUN set -eu; \
    case "$PROFILE" in dev) folder=debug ;; *) folder=$PROFILE ;; esac; \
    program=/target/$folder/servicenow-credential-operator; \
    mkdir -p /image/usr/bin /image/etc/ssl/certs; \
    cp "$program" /image/usr/bin/; \
    for library in $(ldd "$program" | grep -o '/[^ ]*'); do \
      mkdir -p "/image$(dirname "$library")"; \
      cp -L "$library" "/image$library"; \
    done; \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/; \
    echo 'hosts: files dns' > /image/etc/nsswitch.conf; \
    echo 'snowcred:x:65532:65532::/:/nonexistent' > /image/etc/passwd; \
    echo 'snowcred:x:65532:' > /image/etc/group; \
    chmod -R u=rwX,go=rX /image; \
    find /image -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

FROM scratch
COPY --from=builder /image /
USER 65532:65532
# Metrics and health, as --listen says.
EXPOSE 8080
ENTRYPOINT ["/usr/bin/servicenow-credential-operator"]
CMD ["run"]
ARG VERSION=unknown
ARG REVISION=unknown
# RFC 3339, of SOURCE_DATE_EPOCH and not of now: one checkout makes one set of labels.
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="servicenow-credential-operator" \
      org.opencontainers.image.description="Keeps a valid ServiceNow OAuth bearer token in a Kubernetes Secret, renewed before it expires" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
