# Tancho in a container. The Postgres is another one: give its URL as DATABASE_URL.
#
#   docker build -t tancho .
#   docker run --init -p 8080:8080 -p 8888:8888 -p 2222:2222 -v tancho:/var/lib/tancho \
#       -e DATABASE_URL=postgres://tancho:…@db/tancho \
#       -e TANCHO_ADMIN_EMAIL=you@example.com -e TANCHO_ADMIN_PASSWORD_FILE=/run/secrets/tancho \
#       -e TANCHO_ROUTER_DOMAIN=apps.example.com tancho
#
# Apps of the local provisioner run inside this container, as the same user, and end with it. Upgrade by
# starting the new container on the same volume: it starts them again.

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# The checked queries come from .sqlx; no database is asked.
ENV SQLX_OFFLINE=true
RUN cargo build --locked --release --bin tancho

FROM debian:bookworm-slim
# tini collects what ends; the rest is what the platforms build and run apps with. Tancho itself needs
# neither a Postgres client nor OpenSSL.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tini python3 python3-venv nodejs npm golang-go \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /var/lib/tancho --shell /usr/sbin/nologin tancho \
    && install -d -o tancho -g tancho -m 700 /var/lib/tancho
COPY --from=build /source/target/release/tancho /usr/local/bin/tancho
COPY --from=build /source/LICENSE /usr/share/doc/tancho/copyright
USER tancho
WORKDIR /var/lib/tancho
VOLUME /var/lib/tancho
ENV TANCHO_DATA_DIR=/var/lib/tancho \
    TANCHO_API_LISTEN=0.0.0.0:8080 \
    TANCHO_ROUTER_LISTEN=0.0.0.0:8888 \
    TANCHO_SSH_LISTEN=0.0.0.0:2222 \
    TANCHO_LOG_FORMAT=json
EXPOSE 8080 8888 2222
# The shell's own way to speak TCP; the image has no curl.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /healthcheck/ HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q WORKING <&3"]
# SIGTERM drains; docker waits 10 s unless told otherwise: `--stop-timeout 40`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "tancho"]
CMD ["serve"]
