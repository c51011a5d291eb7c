# syntax=docker/dockerfile:1
# Serves bundles that `zsad export` wrote; without PyTorch.
#   docker build -t zsad-runtime .                        on the CPU
#   docker build -t zsad-runtime --build-arg ENGINE=gpu . on NVIDIA GPUs (docker run --gpus all)
#   docker build -t zsad-runtime --build-arg ENGINE=openvino .
FROM python:3.12-slim AS build
ARG ENGINE=cpu
WORKDIR /source
COPY LICENSE NOTICE ./
COPY packaging packaging
COPY src src
RUN python -m venv /opt/zsad
RUN /opt/zsad/bin/python -m pip install --no-cache-dir "./packaging/runtime[${ENGINE},serve]"

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home zsad
COPY --from=build /opt/zsad /opt/zsad
ENV PATH=/opt/zsad/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /home/zsad
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# 0.0.0.0 wants a token: docker run -e ZSAD_SERVE_TOKEN=... -p 8000:8000 -v ./line3-onnx:/bundle:ro zsad-runtime
ENTRYPOINT ["zsad"]
CMD ["serve", "--bundle", "/bundle", "--host", "0.0.0.0", "--port", "8000"]
