# syntax=docker/dockerfile:1
# Two images from one file:
#   docker build --target operator -t dreambooth-operator .
#   docker build --target job      -t dreambooth-job .
# Layers from the rarest change to the most frequent: system, torch with CUDA, other packages, our code. A change of
# our code rebuilds the last one, about a megabyte. BASE is any Debian 13 (or newer) with apt; pin it by digest.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS python
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/* /usr/share/doc/* /usr/share/man/*
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# What builds, and is not shipped: uv, setuptools and the SBOM's writer, in a venv of their own.
FROM python AS tools
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
COPY images/image.lock /src/images/
RUN python3 -m venv /opt/tools && /opt/tools/bin/pip install --quiet --no-cache-dir --require-hashes -r /src/images/image.lock
ENV UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1

FROM tools AS code
COPY pyproject.toml README.md LICENSE /src/
COPY api /src/api
COPY operator /src/operator
COPY job /src/job
RUN /opt/tools/bin/uv build --quiet --wheel --no-build-isolation --python /opt/tools/bin/python --out-dir /dist /src \
 && /opt/tools/bin/uv venv --quiet /opt/venv \
 && /opt/tools/bin/uv pip install --quiet --no-deps --python /opt/venv /dist/*.whl \
 && mkdir /opt/code && cd /opt/venv \
 && cp -a --parents bin/dreambooth-* lib/python3*/site-packages/dreambooth_* /opt/code

FROM tools AS operator-packages
COPY images/operator.lock /src/images/
RUN /opt/tools/bin/uv venv --quiet /opt/venv \
 && /opt/tools/bin/uv pip install --quiet --require-hashes --no-deps --python /opt/venv -r /src/images/operator.lock
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible -o /opt/venv/sbom.cdx.json /opt/venv/bin/python

FROM python AS operator
COPY --from=operator-packages /opt/venv /opt/venv
COPY --from=code /opt/code /opt/venv
USER 65532:65532
ENTRYPOINT ["dreambooth-operator"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title=dreambooth-operator \
      org.opencontainers.image.description="Turns TrainingJobs into training pods" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.revision=${REVISION}

# torch alone first: five gigabytes that change a few times a year. Static libraries (*.a) are for compilers only.
FROM python AS torch
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=images/torch.lock,target=/src/torch.lock \
    /opt/tools/bin/uv venv --quiet /opt/venv \
 && /opt/tools/bin/uv pip install --quiet --no-cache --compile-bytecode --require-hashes --no-deps \
      --python /opt/venv -r /src/torch.lock \
 && find /opt/venv -name '*.a' -delete

FROM torch AS job-packages
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=images/job.lock,target=/src/job.lock \
    /opt/tools/bin/uv pip install --quiet --no-cache --compile-bytecode --require-hashes --no-deps \
      --python /opt/venv -r /src/job.lock \
 && find /opt/venv -name '*.a' -delete \
 && /opt/tools/bin/cyclonedx-py environment --output-reproducible -o /opt/venv/sbom.cdx.json /opt/venv/bin/python

FROM job-packages AS job
COPY --from=code /opt/code /opt/venv
# Nothing is fetched from a hub, and no instance metadata is asked for credentials.
ENV HF_HUB_OFFLINE=1 NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
ENTRYPOINT ["dreambooth-job"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title=dreambooth-job \
      org.opencontainers.image.description="Teaches an image model a subject and publishes the result" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.version=0.1.0 \
      org.opencontainers.image.revision=${REVISION}
