# docker build -f launch/docker/cpu.Dockerfile -t onediff:cpu .
FROM python:3.12-slim
WORKDIR /onediff
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps -e .
ENTRYPOINT ["python", "-m", "onediff_jax.main"]
