# docker build -t semisam-o1 .                                                                        CPU
# docker build -t semisam-o1 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .         CUDA 12.6
# docker run --rm -v "$PWD:/work" semisam-o1 train --root_path data/mine --exp mine --recipe best     (--gpus all)
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/semisam-o1
COPY requirements.txt ./
# Torch comes from the index of its build, everything else from PyPI.
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.8,!=2.9.0,!=2.9.1,!=2.10.0" \
    && pip install --no-cache-dir --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY code ./code
RUN pip install --no-cache-dir --no-deps .

# Scans, runs and weights lie in the folder that is mounted here.
WORKDIR /work
ENTRYPOINT ["semisam-o1"]
