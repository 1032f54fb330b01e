# docker build -f launch/docker/tpu.Dockerfile -t onediff:tpu .
FROM python:3.12-slim
WORKDIR /onediff
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt "jax[tpu]" gcsfs
COPY . .
RUN pip install --no-cache-dir --no-deps -e .
ENTRYPOINT ["python", "-m", "onediff_jax.main"]
