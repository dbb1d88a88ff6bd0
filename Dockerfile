# The service as an image: `docker build .`, and `docker build --platform linux/arm64 .` for the other architecture.
# Both bases can be had elsewhere; the second needs no more than libc, libstdc++, OpenSSL and the certificates of authorities.
ARG SDK_IMAGE=mcr.microsoft.com/dotnet/sdk:10.0
ARG RUNTIME_IMAGE=mcr.microsoft.com/dotnet/runtime-deps:10.0-noble-chiseled

# Compiles on the machine's own architecture for the other one, which is never emulated.
FROM --platform=${BUILDPLATFORM:-linux/amd64} ${SDK_IMAGE} AS build
ARG TARGETARCH
WORKDIR /source
COPY global.json Directory.Build.props Directory.Packages.props .editorconfig ./
COPY src/Directory.Build.props src/
COPY src/Domain/*.csproj src/Domain/packages.lock.json src/Domain/
COPY src/Application/*.csproj src/Application/packages.lock.json src/Application/
COPY src/Infrastructure/*.csproj src/Infrastructure/packages.lock.json src/Infrastructure/
COPY src/Api/*.csproj src/Api/packages.publish.lock.json src/Api/
RUN dotnet restore src/Api ${TARGETARCH:+--arch $TARGETARCH} --locked-mode -p:_IsPublishing=true
COPY src src
# More options of dotnet publish: without ahead-of-time compilation (-p:PublishReadyToRun=false) it takes a quarter of the time.
ARG PUBLISH_OPTIONS=
RUN dotnet publish src/Api ${TARGETARCH:+--arch $TARGETARCH} --no-restore --output /app ${PUBLISH_OPTIONS}

FROM ${RUNTIME_IMAGE}
COPY --from=build /app /app
# Nothing is written, not even the runtime's sockets for debuggers.
ENV ASPNETCORE_HTTP_PORTS=8080 DOTNET_EnableDiagnostics=0
EXPOSE 8080
USER 1654:1654
HEALTHCHECK --interval=5s --timeout=3s CMD ["/app/CalcomAccounts.Api", "healthcheck"]
ENTRYPOINT ["/app/CalcomAccounts.Api"]
