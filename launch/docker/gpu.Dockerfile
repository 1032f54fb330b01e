# docker build -f launch/docker/gpu.Dockerfile -t onediff:gpu .
# CUDA, cuDNN and NCCL come with jax[cuda13]; the host needs its driver and nvidia-container-toolkit.
FROM python:3.12-slim
WORKDIR /onediff
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt "jax[cuda13]" gcsfs
COPY . .
RUN pip install --no-cache-dir --no-deps -e .
ENTRYPOINT ["python", "-m", "onediff_jax.main"]
