"""A stand-in of the Hub: its HTTP interface as `huggingface_hub` calls it to make a repository and to commit to it.

It speaks the interface without Xet (HF_HUB_DISABLE_XET=1): large files go through git LFS's batch interface.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

OWNER, TOKEN, READ_TOKEN = "someone", "hf_may_write", "hf_may_read"
LARGE = (".safetensors", ".onnx")


@dataclass
class Repository:
    """What was made and what arrived, by branch: `commits` in order, each {path: bytes}."""

    private: bool
    commits: dict[str, list[dict[str, bytes]]] = field(default_factory=lambda: {"main": []})


@dataclass
class Hub:
    """All that the stand-in remembers; `requests` are (method, path, token)."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    verified: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    samples: dict[str, bytes] = field(default_factory=dict)


class RefusalError(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str, code: str | None = None, body: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.body = {"error": message, **(body or {})}


def create(hub: Hub, address: str, payload: bytes, *_: str) -> dict[str, Any]:
    wish = json.loads(payload)
    name = f"{wish['organization'] or OWNER}/{wish['name']}"
    if not name.startswith(f"{OWNER}/"):
        raise RefusalError(
            403, f"You don't have the rights to create a model under the namespace {wish['organization']}"
        )
    if name in hub.repositories:
        raise RefusalError(409, "You already created this model repo", body={"url": f"{address}/{name}"})
    hub.repositories[name] = Repository(private=wish.get("visibility") == "private")
    return {"url": f"{address}/{name}", "name": name}


def info(hub: Hub, address: str, payload: bytes, name: str) -> dict[str, Any]:
    if name not in hub.repositories:
        raise RefusalError(404, "Repository not found", "RepoNotFound")
    return {"id": name, "private": hub.repositories[name].private, "sha": "0" * 40, "siblings": [], "tags": []}


def branch(hub: Hub, address: str, payload: bytes, name: str, revision: str) -> dict[str, Any]:
    if revision in hub.repositories[name].commits:
        raise RefusalError(409, "Reference already exists")
    hub.repositories[name].commits[revision] = []
    return {}


def validate_yaml(hub: Hub, address: str, payload: bytes) -> dict[str, Any]:
    metadata = yaml.safe_load(json.loads(payload)["content"].split("---\n")[1])
    if not re.fullmatch("[a-z-]+", metadata["language"]):
        message = '"language" must only contain lowercase characters'
        raise RefusalError(400, message, body={"errors": [{"message": message}], "warnings": []})
    return {"errors": [], "warnings": []}


def preupload(hub: Hub, address: str, payload: bytes, name: str, revision: str) -> dict[str, Any]:
    files = json.loads(payload)["files"]
    hub.samples.update({file["path"]: base64.b64decode(file["sample"]) for file in files})
    modes = [
        {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular"} for file in files
    ]
    return {"files": [{**mode, "shouldIgnore": False} for mode in modes]}


def batch(hub: Hub, address: str, payload: bytes, name: str) -> dict[str, Any]:
    wish = json.loads(payload)
    assert wish["operation"] == "upload"
    return {
        "transfer": "basic",
        "objects": [
            {
                **one,
                "actions": {
                    "upload": {"href": f"{address}/large/{one['oid']}"},
                    "verify": {"href": f"{address}/verify/{name}"},
                },
            }
            for one in wish["objects"]
        ],
    }


def store(hub: Hub, address: str, payload: bytes, name: str) -> dict[str, Any]:
    assert hashlib.sha256(payload).hexdigest() == name
    hub.large[name] = payload
    return {}


def verify(hub: Hub, address: str, payload: bytes, name: str) -> dict[str, Any]:
    wish = json.loads(payload)
    if len(hub.large[wish["oid"]]) != wish["size"]:
        raise RefusalError(422, "Another size")
    hub.verified.add(wish["oid"])
    return {}


def commit(hub: Hub, address: str, payload: bytes, name: str, revision: str) -> dict[str, Any]:
    if revision not in hub.repositories[name].commits:
        raise RefusalError(404, "Revision not found", "RevisionNotFound")
    files: dict[str, bytes] = {}
    for line in payload.splitlines():
        item = json.loads(line)
        value = item["value"]
        if item["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            assert value["oid"] in hub.verified
            files[value["path"]] = hub.large[value["oid"]]
    hub.repositories[name].commits[revision].append(files)
    oid = f"{len(hub.repositories[name].commits[revision]):040x}"
    return {"success": True, "commitOid": oid, "commitUrl": f"{address}/{name}/commit/{oid}"}


NAME, REVISION = r"([\w.-]+/[\w.-]+)", r"([\w.-]+)"
ROUTES: list[tuple[str, str, Callable[..., dict[str, Any]]]] = [
    ("POST", "/api/repos/create", create),
    ("GET", f"/api/models/{NAME}", info),
    ("POST", f"/api/models/{NAME}/branch/{REVISION}", branch),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", f"/api/models/{NAME}/preupload/{REVISION}", preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", batch),
    ("PUT", "/large/([0-9a-f]{64})", store),
    ("POST", f"/verify/{NAME}", verify),
    ("POST", f"/api/models/{NAME}/commit/{REVISION}", commit),
]


class Handler(BaseHTTPRequestHandler):
    """One request; everything but the storage of large files, whose addresses are secret, asks for a token."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def answer(self) -> None:
        payload = self.payload()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = self.path.partition("?")[0]
        self.hub.requests.append((self.command, path, token))
        address = f"http://{self.headers['Host']}"
        try:
            if not path.startswith("/large/") and token not in (TOKEN, READ_TOKEN):
                raise RefusalError(401, "Invalid username or password.")
            if token == READ_TOKEN and self.command != "GET":
                raise RefusalError(403, "This token may only read")
            for method, pattern, route in ROUTES:
                match = re.fullmatch(pattern, path)
                if method == self.command and match:
                    return self.send(200, route(self.hub, address, payload, *match.groups()))
            raise RefusalError(404, f"no such address: {self.command} {path}")
        except RefusalError as refused:
            self.send(refused.status, refused.body, refused.code)

    def payload(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, status: int, body: dict[str, Any], code: str | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status >= 400:
            self.send_header("X-Error-Message", str(body["error"]))
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names are http.server's

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test's output is no log."""


@contextmanager
def running_hub() -> Iterator[tuple[Hub, str]]:
    """The stand-in at work in a thread, and its address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
