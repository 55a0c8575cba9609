"""Uploading, through the real huggingface_hub client, to a Hub on loopback."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Hub(BaseHTTPRequestHandler):
    """The requests of one push; what was asked for is kept on the server."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.private = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.reply({"url": f"{self.server.url}/me/{asked['name']}"})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"
            }
            self.server.commits.append(files)
            url = f"{self.server.url}/me/x/commit/1"
            self.reply(
                {
                    "success": True,
                    "commitOid": "1" * 40,
                    "commitUrl": url,
                    "hookOutput": "",
                    "pullRequestUrl": None,
                }
            )
        else:
            self.reply({"error": self.path}, 404)

    def do_GET(self):
        if self.path == "/api/whoami-v2":
            self.reply({"name": "me", "type": "user", "orgs": [], "auth": {}})
        else:
            private = self.server.private and not self.server.stays_public
            self.reply({"id": "me/digits", "sha": "1" * 40, "siblings": [], "tags": [], "private": private})

    def do_HEAD(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()

    def reply(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def loopback_hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.commits, server.private, server.stays_public = [], None, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def push(hub, folder, tmp_path, **options):
    code = "from ddpm_from_scratch import push_folder\n"
    code += f"print(push_folder({str(folder)!r}, 'digits', token='hf_x', **{options!r}))"
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )


@pytest.mark.parametrize("private", [False, True])
def test_push_is_one_commit_of_the_needed_files(loopback_hub, tiny_run, tmp_path, private):
    (tiny_run / "samples").mkdir(exist_ok=True)
    shutil.copy(tiny_run / "samples.png", tiny_run / "samples" / "step-1.png")  # as a longer run leaves
    done = push(loopback_hub, tiny_run, tmp_path, private=private)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{loopback_hub.url}/me/digits" and loopback_hub.private is private
    (files,) = loopback_hub.commits
    assert set(files) == {
        "model_index.json",
        "README.md",
        "results.json",
        "samples.png",
        "loss.png",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    }
    for name, content in files.items():
        assert base64.b64decode(content) == (tiny_run / name).read_bytes(), name


def test_nothing_is_pushed_to_a_public_repository_when_private_was_asked_for(
    loopback_hub, tiny_run, tmp_path
):
    loopback_hub.stays_public = True
    done = push(loopback_hub, tiny_run, tmp_path, private=True)
    assert done.returncode != 0 and "is public" in done.stderr and not loopback_hub.commits
