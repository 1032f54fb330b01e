"""Uploads, against a stand-in of the hub's HTTP interface on this machine."""

import base64
import http.server
import json
import threading

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from onediff_jax.exporting.place import ExportError
from onediff_jax.exporting.push import Push


class Hub(http.server.BaseHTTPRequestHandler):
    """Takes repositories, branches and commits, with every file in the commit itself."""

    def log_message(self, *_):
        """Quiet."""

    def _answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if "/tree/" in self.path:
            return self._answer([])
        info = {"id": "me/it", "sha": "0" * 40, "siblings": [], "private": False}
        return self._answer(info)

    def do_POST(self):
        server, length = self.server, int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        server.seen.append((self.path, self.headers.get("Authorization")))
        if server.faults == 0:
            server.status, server.faults = 200, None
        if server.faults:
            server.faults -= 1
        if server.status != 200:
            return self._answer({"error": "the hub says no"}, server.status)
        address = f"http://127.0.0.1:{server.server_port}/me/it"
        if self.path.endswith("/repos/create"):
            server.made = json.loads(body)
            return self._answer({"url": address, "name": "me/it", "id": "me/it"})
        if "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    server.files[entry["value"]["path"]] = content
            return self._answer(
                {"success": True, "commitOid": "1" * 40, "commitUrl": f"{address}/commit/1"}
            )
        return self._answer({})


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.files, server.made, server.status = [], {}, None, 200
    server.faults = None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    for name in ("README.md", "model_index.json", "transformer/nextdit_01.py"):
        file = tmp_path / "export" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}")
    return tmp_path / "export"


@pytest.mark.filterwarnings("ignore")
def test_a_folder_arrives_whole(hub, folder):
    push = Push("me/it", private=True, revision="v2")
    push.check()
    assert push.upload(folder, "words").endswith("/commit/1")
    assert hub.files == {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
    assert hub.made["name"] == "it"  # how it says "private" depends on the client's version
    assert hub.made.get("private") is True or hub.made.get("visibility") == "private"
    paths = [path for path, _ in hub.seen]
    assert any(path.endswith("/branch/v2") for path in paths)
    assert any(path.endswith("/commit/v2") for path in paths)
    assert {token for _, token in hub.seen} == {"Bearer hf_test"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "status, why, asked",
    [
        (401, "401: the token is not valid: `hf auth login`", 1),
        (403, "403: the token may not write there", 1),
        (404, "404: there is no such owner", 1),
        (429, "4 times: 429: it has had too many requests", 4),
        (500, "4 times: .*Try again later", 4),
    ],
)
def test_what_the_hub_refuses_is_told(hub, folder, monkeypatch, status, why, asked):
    """In one message that says what to do; what may pass is asked again, a few times."""
    monkeypatch.setattr("onediff_jax.exporting.push._PAUSE", 0.0)
    hub.status = status
    with pytest.raises(ExportError, match=f"is written, and uploading it to me/it failed.*{why}"):
        Push("me/it").upload(folder, "words")
    assert folder.is_dir() and not hub.files
    assert sum(path.endswith("/repos/create") for path, _ in hub.seen) == asked


@pytest.mark.filterwarnings("ignore")
def test_a_hub_that_is_busy_once_is_asked_again(hub, folder, monkeypatch):
    monkeypatch.setattr("onediff_jax.exporting.push._PAUSE", 0.0)
    hub.status, hub.faults = 503, 1
    assert Push("me/it").upload(folder, "words").endswith("/commit/1")


def test_without_a_token(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ExportError, match="`hf auth login`"):
        Push("me/it").check()
    with pytest.raises(ValueError, match="push='it' must be OWNER/NAME"):
        Push("it")
