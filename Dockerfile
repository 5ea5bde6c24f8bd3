# kdyolo in a container. The base is a build argument: any image with Python 3.10 or newer, or Ubuntu / Debian to install it in.
#
#   docker build -t kdyolo .                                                     # CPU
#   docker build -t kdyolo:cuda --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 --build-arg TORCH_INDEX= .
#
# PyTorch's wheels bring CUDA's libraries along, so a CUDA base needs no more than the driver's interface ("base").
ARG BASE=python:3.12-slim
FROM ${BASE}

# Where PyTorch comes from; empty: from PyPI, whose Linux wheels are those for CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Extras of kdyolo, e.g. distill,export,ray
ARG EXTRAS=distill,export

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    YOLO_AUTOINSTALL=false YOLO_CONFIG_DIR=/tmp PATH=/opt/kdyolo/bin:$PATH

# git is for the commit in a run's record; the others are what OpenCV loads.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends git libgl1 libglib2.0-0 $(command -v python3 >/dev/null || echo python3 python3-venv) \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/kdyolo

# PyTorch first, in a layer of its own: it is most of the image, and changes least. Its versions are those of
# pyproject.toml: another would be replaced in the last step, by the build that PyPI has.
RUN pip install --quiet 'torch>=2.6,!=2.13.0' torchvision ${TORCH_INDEX:+--index-url ${TORCH_INDEX}}

COPY pyproject.toml README.md LICENSE /src/
COPY cfg /src/cfg
COPY kdyolo /src/kdyolo
RUN pip install --quiet "/src[${EXTRAS}]" && rm -rf /src && kdyolo --version

WORKDIR /work
ENTRYPOINT ["kdyolo"]
CMD ["--help"]
