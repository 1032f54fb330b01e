"""Trackers by stand-ins of their packages, and the webhook by a server of this test."""

import http.server
import io
import json
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from onediff_jax.run.trackers import Trackers, call_webhook, check_trackers, check_webhook


@pytest.fixture
def wandb(monkeypatch):
    """What the stand-in of wandb was told."""
    told = []
    run = SimpleNamespace(log=told.append, summary={}, finish=lambda: told.append("finish"))

    def init(**options):
        told.append(options)
        return run

    stand_in = SimpleNamespace(init=init, Image=lambda picture: ("picture", picture.shape))
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", "/nowhere")
    return told


def test_what_a_tracker_is_told(wandb, tmp_path):
    trackers = Trackers(("wandb",), tmp_path / "mine", {"seed": 3})
    trackers.scalars(5, {"loss": 0.5})
    trackers.image(5, "samples", np.zeros((4, 6, 3), np.uint8))
    trackers.close()
    first, *rest = wandb
    assert first["config"] == {"seed": 3} and first["name"] == "mine"
    assert first["mode"] == "offline" and first["resume"] == "allow"
    picture = {"samples": ("picture", (4, 6, 3)), "step": 5}
    assert rest == [{"loss": 0.5, "step": 5}, picture, "finish"]


def test_one_that_fails_is_told_of_once(wandb, tmp_path, monkeypatch, capsys):
    def fails(**options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(set_tracking_uri=fails))
    trackers = Trackers(("mlflow", "wandb"), tmp_path, {})
    for step in (1, 2):
        trackers.scalars(step, {"loss": 0.5})
    trackers.close()
    assert wandb[1:] == [{"loss": 0.5, "step": 1}, {"loss": 0.5, "step": 2}, "finish"]
    assert capsys.readouterr().err.count("tracker mlflow failed and is left alone") == 1


def test_bad_names():
    with pytest.raises(ValueError, match="names one twice"):
        check_trackers(("tensorboard", "tensorboard"))
    with pytest.raises(ValueError, match="log.webhook='host:80' must start with http"):
        check_webhook("host:80")


def test_webhook(capsys):
    said = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            said.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    call_webhook(url, "start", "mine", step=4)
    server.shutdown()
    server.server_close()
    assert said == [{"event": "start", "run": "mine", "step": 4}]
    call_webhook(url, "end", "mine")  # nobody listens
    call_webhook("", "end", "mine")
    assert capsys.readouterr().err.count("end was not sent") == 1


def test_what_tensorboard_reads(tmp_path):
    """Its own reader finds numbers, pictures and texts; nobody needed tensorflow."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    picture = np.arange(24 * 3, dtype=np.uint8).reshape(4, 6, 3)
    trackers = Trackers(("tensorboard",), tmp_path, {})
    for step in (1, 2):
        trackers.scalars(step, {"loss": 0.5 * step, "grad_norm": float("inf")})
    trackers.image(2, "samples", picture)
    trackers.text(0, "parameters", "| a |")
    trackers.close()
    read = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 0.5), (2, 1.0)]
    (found,) = read.Images("samples")
    shown = Image.open(io.BytesIO(found.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(shown), picture)
    (text,) = read.Tensors("parameters")
    assert text.tensor_proto.string_val[0] == b"| a |"
