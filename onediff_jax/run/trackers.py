"""Where a run's metrics and samples go beside its workdir: trackers, and a webhook."""

import hashlib
import importlib.util
import io
import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

_PACKAGES = {name: name for name in ("tensorboard", "wandb", "trackio", "mlflow")}
_PROJECT = "onediff_jax"
_SECONDS = 5  # that a webhook may take


class Tracker(Protocol):
    """What a tracker of this module does."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...

    def image(self, step: int, name: str, picture: np.ndarray) -> None: ...

    def text(self, step: int, name: str, text: str) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    """Event files in the workdir, without tensorflow, whose import takes seconds of every start."""

    def __init__(self, workdir: Path, config: dict[str, Any]):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event: Any = vars(event_pb2)["Event"]  # made when the module is loaded
        self._summary: Any = vars(summary_pb2)["Summary"]
        self._text = create_summary_metadata("", "")
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter((workdir / name).open("wb"))
        self._write(file_version="brain.Event:2")

    def _write(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def _add(self, step: int, values: Iterable[Any]) -> None:
        self._write(step=step, summary=self._summary(value=values))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        value = self._summary.Value
        self._add(step, [value(tag=name, simple_value=v) for name, v in values.items()])

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        content, (height, width, _) = io.BytesIO(), picture.shape
        Image.fromarray(picture).save(content, "PNG")
        encoded = self._summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=content.getvalue()
        )
        self._add(step, [self._summary.Value(tag=name, image=encoded)])

    def text(self, step: int, name: str, text: str) -> None:
        from tensorboard.util.tensor_util import make_tensor_proto

        tensor = make_tensor_proto([text.encode()])
        self._add(step, [self._summary.Value(tag=name, metadata=self._text, tensor=tensor)])

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """Weights & Biases; offline, in the workdir, unless a key or WANDB_MODE says otherwise."""

    def __init__(self, workdir: Path, config: dict[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports] installed by who uses it

        netrc = Path.home() / ".netrc"
        known = "WANDB_API_KEY" in os.environ or (netrc.exists() and "wandb" in netrc.read_text())
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=workdir.name,
            id=hashlib.sha256(str(workdir).encode()).hexdigest()[:12],  # a restart goes on with it
            resume="allow",
            dir=str(workdir),
            config=config,
            mode=os.environ.get("WANDB_MODE", "online" if known else "offline"),
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log({**values, "step": step})

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(picture), "step": step})

    def text(self, step: int, name: str, text: str) -> None:
        self._run.summary[name] = text

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, workdir: Path, config: dict[str, Any]):
        import trackio  # pyright: ignore[reportMissingImports] installed by who uses it

        self._trackio = trackio
        trackio.init(project=_PROJECT, name=workdir.name, config=config, resume="allow")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._trackio.log(values, step=step)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self._trackio.log({name: self._trackio.Image(picture)}, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Nothing: it keeps numbers and pictures."""

    def close(self) -> None:
        self._trackio.finish()


class _MLflow:
    """MLflow; in the workdir unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, workdir: Path, config: dict[str, Any]):
        import mlflow  # pyright: ignore[reportMissingImports] installed by who uses it

        self._mlflow = mlflow
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{workdir}/mlflow.db")
            if mlflow.get_experiment_by_name(_PROJECT) is None:  # else pictures go to ./mlruns
                pictures = (workdir.resolve() / "mlflow").as_uri()
                mlflow.create_experiment(_PROJECT, artifact_location=pictures)
        mlflow.set_experiment(_PROJECT)
        mlflow.start_run(run_name=workdir.name)
        mlflow.log_dict(config, "config.json")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self._mlflow.log_image(picture, f"{name}_{step:07d}.png")

    def text(self, step: int, name: str, text: str) -> None:
        self._mlflow.log_text(text, f"{name}.md")

    def close(self) -> None:
        self._mlflow.end_run()


_MAKERS = {"tensorboard": _TensorBoard, "wandb": _Wandb, "trackio": _Trackio, "mlflow": _MLflow}


def check_trackers(names: Sequence[str]) -> None:
    """Raises ValueError for a tracker named twice, or whose package is not installed."""
    if len(set(names)) < len(names):
        raise ValueError(f"log.trackers={tuple(names)} names one twice")
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ValueError(
                f"log.trackers names {name!r}, whose package is not here: pip install "
                f"{_PACKAGES[name]}"
            )


class Trackers:
    """Several trackers as one. One that fails is told of once, left alone, and stops nothing.

    Args:
      names: of log.trackers.
      workdir: of the run; its name is the run's.
      config: of the run, plain values.
    """

    def __init__(self, names: Sequence[str], workdir: Path, config: dict[str, Any]):
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            self._try(name, lambda name=name: self._open(name, workdir, config))

    def _open(self, name: str, workdir: Path, config: dict[str, Any]) -> None:
        self._trackers[name] = _MAKERS[name](workdir, config)

    def _try(self, name: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # of a library, a network, a disk
            self._trackers.pop(name, None)
            told = (str(error).splitlines() or [""])[0][:200]
            print(
                f"tracker {name} failed and is left alone ({type(error).__name__}: {told})",
                file=sys.stderr,
                flush=True,
            )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers by name."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, lambda t=tracker: t.scalars(step, values))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """A uint8 (H, W, 3) picture."""
        for tracked, tracker in list(self._trackers.items()):
            self._try(tracked, lambda t=tracker: t.image(step, name, picture))

    def text(self, step: int, name: str, text: str) -> None:
        """A text, such as the table of parameters."""
        for tracked, tracker in list(self._trackers.items()):
            self._try(tracked, lambda t=tracker: t.text(step, name, text))

    def close(self) -> None:
        """Sends what is left."""
        for name, tracker in list(self._trackers.items()):
            self._try(name, tracker.close)


def check_webhook(url: str) -> None:
    """Raises ValueError for what is no URL of a web server."""
    if url and not url.startswith(("http://", "https://")):
        raise ValueError(f"log.webhook={url!r} must start with http:// or https://")


def call_webhook(url: str, event: str, run: str, **values: Any) -> None:
    """Sends {"event", "run", …} as JSON, where there is a URL; a failure is told, no more."""
    if not url:
        return
    content = json.dumps({"event": event, "run": run, **values}).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=_SECONDS).close()
    except (OSError, ValueError) as error:
        print(f"log.webhook: {event} was not sent ({error})", file=sys.stderr, flush=True)
