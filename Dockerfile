# nametag: the service with the bundled model; nothing is fetched at run time.
#
#   docker build -t nametag .                                      CPU; no torch, no CUDA, and no compiler in it
#   docker build -t nametag:gpu --build-arg GROUP=gpu .            CUDA through torch
#   docker build -t nametag:train --build-arg GROUP=training .     python -m training, on the CPU
#
# A build argument, and not --target, tells them apart, since the classic builder builds every
# stage on the way to its target: a plain build would download torch for images nobody asked for.
# Pin the base by digest with --build-arg BASE_IMAGE=python@sha256:…
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG GROUP=
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml ./
# The dependencies alone, so that this layer is made again only when they change.
RUN python -m venv /opt/venv \
 && python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
g = '${GROUP}'; print(*p['dependencies'], *(p['optional-dependencies'][g] if g else []), sep='\n')" > wanted.txt \
 && if [ "${GROUP}" = training ]; then \
      torch="$(grep '^torch' wanted.txt)" \
      && { ls ${PIP_FIND_LINKS:-/none}/torch-*+cpu* >/dev/null 2>&1 && /opt/venv/bin/pip install "$torch" \
        || /opt/venv/bin/pip install "$torch" --index-url "${TORCH_CPU_INDEX}"; }; \
    fi \
 && /opt/venv/bin/pip install -r wanted.txt \
 && rm -rf /opt/venv/lib/python*/site-packages/pip /opt/venv/lib/python*/site-packages/pip-* \
           /opt/venv/lib/python*/site-packages/setuptools* /opt/venv/bin/pip*

# The kernel. Without it an image works too, more slowly: so no compiler, no failure.
COPY model/kernel/*.c model/kernel/*.h ./
RUN mkdir built \
 && { command -v cc || { apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev; }; } \
 && cc -O3 -std=gnu11 -fvisibility=hidden -shared -fPIC *.c -o built/_kernel.so -lm \
 || echo "no C compiler: ONNX Runtime will compute all"

FROM ${BASE_IMAGE}
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NAMETAG_HOST=0.0.0.0 NAMETAG_PORT=8000 NAMETAG_MODEL=/app/artefacts/en-person
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY LICENSE ./
COPY model model
COPY --from=build /src/built/ model/kernel/
COPY service service
COPY training training
COPY artefacts artefacts
# The file system is read-only at run time, so bytecode is made here. /models is for one's own
# models; a named volume mounted there takes this owner over.
RUN python -m compileall -q model service training && mkdir /models /data && chown 10001:10001 /models
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-c", \
  "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['NAMETAG_PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["python", "-m"]
CMD ["service"]
