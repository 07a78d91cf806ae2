"""A stand-in of the hub's HTTP interface, as far as `huggingface_hub` and `datasets` ask it: data sets in memory.

It knows accounts by their tokens, commits with whole trees, and files as git keeps them or as LFS does. Every request
is written down, so that a test can tell what was sent.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
from huggingface_hub import constants

LFS = ("*.safetensors", "*.parquet")


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""

    def commit(self, files: dict[str, bytes]) -> str:
        told = [self.head, *((name, hashlib.sha256(data).hexdigest()) for name, data in sorted(files.items()))]
        self.head = hashlib.sha1(json.dumps(told).encode()).hexdigest()
        self.commits[self.head] = files
        return self.head


class Hub(ThreadingHTTPServer):
    """Data sets by ``OWNER/NAME``; ``accounts``: (name, may write) by token; ``broken``: status of every answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sets: dict[str, Repository] = {}
        self.accounts = {"hf_writes": ("someone", True), "hf_reads": ("someone", False)}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.broken: int | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str) -> dict[str, bytes]:
        """Of the newest state of a set."""
        return self.sets[name].commits[self.sets[name].head]


@contextmanager
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def asked_by_this_process(monkeypatch, folder):
    """A stand-in that the client in this process takes for the hub, with a token that may write and an empty cache."""
    with hub() as server:
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its store speaks another protocol
        monkeypatch.setenv("HF_TOKEN", "hf_writes")
        yield server
        huggingface_hub.close_session()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_words) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        if self.server.broken:
            self.tell(self.server.broken, {"error": "out of order"})
            return
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        match parts:
            case ["api", "whoami-v2"]:
                account = self.account()
                if account is None:
                    self.tell(401, {"error": "Invalid username or password."})
                else:
                    self.tell(200, {"name": account[0], "type": "user", "orgs": [], "auth": {}})
            case ["api", "validate-yaml"]:
                self.tell(200, {"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["blobs", oid]:
                self.server.blobs[oid] = body
                self.tell(200, {})
            case ["datasets", owner, rest, "info", "lfs", "objects", "batch"]:
                self.batch(f"{owner}/{rest.removesuffix('.git')}", json.loads(body))
            case ["datasets", owner, name, "resolve", revision, *path]:
                if self.found(f"{owner}/{name}", revision):
                    self.give(f"{owner}/{name}", revision, "/".join(path))
            case ["api", "datasets", owner, name, *rest]:
                self.data_set(f"{owner}/{name}", rest, body, parse_qs(url.query))
            case _:
                self.tell(404, {"error": f"nothing at {url.path}"})

    def data_set(self, name: str, rest: list[str], body: bytes, query: dict[str, list[str]]) -> None:
        match rest:
            case [] | ["revision", _]:
                revision = rest[1] if rest else "main"
                if self.found(name, revision):
                    self.tell(200, self.info(name, revision))
            case ["preupload", _]:
                if self.may_write(name):
                    self.tell(200, {"files": [mode(file) for file in json.loads(body)["files"]]})
            case ["commit", _]:
                if self.may_write(name):
                    self.commit(name, body)
            case ["tree", revision, *folder]:
                if self.found(name, revision):
                    self.tell(200, self.tree(name, revision, "/".join(folder), "recursive" in query))
            case ["paths-info", revision]:
                if self.found(name, revision):
                    asked = parse_qs(body.decode())["paths"] if b"=" in body else json.loads(body)["paths"]
                    entries = self.tree(name, revision, "", True)
                    self.tell(200, [entry for entry in entries if entry["path"] in asked])
            case _:
                self.tell(404, {"error": f"nothing at {'/'.join(rest)}"})

    def account(self) -> tuple[str, bool] | None:
        return self.server.accounts.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def found(self, name: str, revision: str) -> bool:
        known = self.server.sets.get(name)
        owner = self.account() is not None and self.account()[0] == name.split("/")[0]
        if known is None or (known.private and not owner):
            self.tell(
                404 if self.account() else 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
            )
            return False
        if revision not in ("main", *known.commits):
            self.tell(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
            return False
        return True

    def may_write(self, name: str) -> bool:
        account = self.account()
        if account is None or not account[1] or account[0] != name.split("/")[0]:
            self.tell(403 if account else 401, {"error": f"You don't have the rights to write to {name}"})
            return False
        return True

    def create(self, asked: dict) -> None:
        account = self.account()
        name = f"{asked.get('organization') or (account or ('nobody',))[0]}/{asked['name']}"
        if not self.may_write(name):
            return
        url = {"url": f"{self.server.address}/datasets/{name}"}
        if name in self.server.sets:
            self.tell(409, {**url, "error": "You already created this dataset repo"})
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.sets[name] = Repository(private)
        self.server.sets[name].commit({".gitattributes": b"*.parquet filter=lfs\n"})
        self.tell(200, {**url, "id": name, "private": private})

    def batch(self, name: str, asked: dict) -> None:
        if not self.may_write(name):
            return
        objects = []
        for one in asked["objects"]:
            upload = {"upload": {"href": f"{self.server.address}/blobs/{one['oid']}"}}
            objects.append({**one, **({} if one["oid"] in self.server.blobs else {"actions": upload})})
        self.tell(200, {"transfer": "basic", "objects": objects})

    def commit(self, name: str, body: bytes) -> None:
        files = dict(self.server.files(name))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.server.sets[name].commit(files)
        self.tell(200, {"commitUrl": f"{self.server.address}/datasets/{name}/commit/{commit}", "commitOid": commit})

    def state(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        known = self.server.sets[name]
        commit = known.head if revision == "main" else revision
        return commit, known.commits[commit]

    def info(self, name: str, revision: str) -> dict:
        commit, files = self.state(name, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        return {"id": name, "sha": commit, "private": self.server.sets[name].private, "siblings": siblings, "tags": []}

    def tree(self, name: str, revision: str, folder: str, recursive: bool) -> list[dict]:
        _, files = self.state(name, revision)
        inside = {path: data for path, data in files.items() if not folder or path.startswith(f"{folder}/")}
        entries, folders = [], set()
        for path, data in sorted(inside.items()):
            below = path.removeprefix(f"{folder}/" if folder else "").split("/")
            folders |= {"/".join(path.split("/")[: -len(below) + depth + 1]) for depth in range(len(below) - 1)}
            if recursive or len(below) == 1:
                entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
                if is_lfs(path):
                    entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
                entries.append(entry)
        return [
            *({"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)),
            *entries,
        ]

    def give(self, name: str, revision: str, path: str) -> None:
        commit, files = self.state(name, revision)
        if path not in files:
            self.tell(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data = files[path]
        etag = hashlib.sha256(data).hexdigest() if is_lfs(path) else git_oid(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        status, wanted = 200, self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            status, data = 206, data[start : end + 1]
        self.send(status, data, headers)

    def tell(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        error = value.get("error") if isinstance(value, dict) else None
        more = {"X-Error-Message": error} if error else {}
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **more, **(headers or {})})

    def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def is_lfs(path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in LFS)


def mode(file: dict) -> dict:
    kind = "lfs" if is_lfs(file["path"]) else "regular"
    return {"path": file["path"], "uploadMode": kind, "shouldIgnore": False, "oid": None}


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
