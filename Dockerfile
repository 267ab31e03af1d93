# CPU image of internvl; answers with the embedded model and needs no network at run time.
#
#   docker build -t internvl .
#   docker run --rm -v "$PWD:/data" internvl chat photo.jpg "What is this?"
#
# For an NVIDIA GPU: build with --build-arg TORCH_INDEX= (the ordinary wheels bring CUDA), run with --gpus all.
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/internvl
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} .

RUN useradd --create-home internvl
USER internvl
WORKDIR /data
ENTRYPOINT ["internvl"]
CMD ["--help"]
