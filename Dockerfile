# prmbench with vLLM and the trainers, for CUDA:
#   docker build -t prmbench:cuda .
#   docker run --gpus all -v "$PWD:/work" -v ~/.cache/huggingface:/root/.cache/huggingface prmbench:cuda eval --rm CKPT
# The same without a GPU:
#   docker build --build-arg BASE=python:3.12-slim --build-arg EXTRAS=train --build-arg INDEX=https://download.pytorch.org/whl/cpu -t prmbench:cpu .
ARG BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04
FROM ${BASE}

# EXTRAS: of pyproject.toml. INDEX: where torch is looked for besides PyPI; empty: PyPI alone, whose build for Linux is for CUDA.
ARG EXTRAS=train,vllm
ARG INDEX=

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv python3-dev gcc \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/prmbench
ENV PATH=/opt/prmbench/bin:$PATH PIP_NO_CACHE_DIR=1

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY prmbench prmbench
COPY tasks tasks
COPY training training
COPY leaderboards leaderboards
RUN pip install --extra-index-url "${INDEX:-https://pypi.org/simple}" ".[${EXTRAS}]"

WORKDIR /work
ENTRYPOINT ["prmbench"]
CMD ["doctor"]
