"""A hub on this machine: as much of its interface as pushing and loading a repository of a model takes, held in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Repositories by name, each a mapping of file names to bytes; those in `private` need the token "secret"."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.commits: list[tuple[str, list[str]]] = []
        self.address = ""

    def sha(self, name: str) -> str:
        """The commit that a repository is at: forty hex digits."""
        files = self.repositories[name]
        return hashlib.sha1(b"".join(n.encode() + files[n] for n in sorted(files))).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """The hub while it answers at `hub.address`."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, content: Any = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refused(self, name: str) -> bool:
        """Answers for a repository that is not there, or not for the one who asks; as the hub does, alike."""
        known = self.headers.get("Authorization") == "Bearer secret"
        if name in self.hub.repositories and (known or name not in self.hub.private):
            return False
        self._answer(401, {"error": "Invalid username or password."}, X_Error_Code="RepoNotFound")
        return True

    def do_POST(self) -> None:
        hub, body = self.hub, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer secret":
            return self._answer(401, {"error": "a token is needed"})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            hub.repositories.setdefault(name, {})
            hub.private |= {name} if asked.get("private") or asked.get("visibility") == "private" else set()
            return self._answer(200, {"url": f"{hub.address}/{name}"})
        name, verb = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path).groups()  # type: ignore
        if verb == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        given = [json.loads(line) for line in body.splitlines()]
        added = {g["value"]["path"]: base64.b64decode(g["value"]["content"]) for g in given if g["key"] == "file"}
        hub.repositories[name] |= added
        hub.commits.append((name, sorted(added)))
        return self._answer(
            200, {"commitUrl": f"{hub.address}/{name}/commit/{hub.sha(name)}", "commitOid": hub.sha(name)}
        )

    def do_GET(self) -> None:
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/?]+))?(?:\?.*)?", self.path)
        found = api or re.fullmatch(r"/([^/]+/[^/]+)/(resolve)/[^/]+/([^?]+)", self.path)
        if found is None:
            return self._answer(404, {"error": f"this hub knows nothing of {self.path}"})
        name, verb, where = found.groups()
        if self._refused(name):
            return None
        files, sha = self.hub.repositories[name], self.hub.sha(name)
        if verb == "resolve":
            if where not in files:
                return self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            tag = hashlib.sha1(files[where]).hexdigest()
            return self._answer(200, files[where], ETag=f'"{tag}"', X_Repo_Commit=sha)
        listed = [
            {"type": "file", "path": n, "size": len(b), "oid": hashlib.sha1(b).hexdigest()} for n, b in files.items()
        ]
        if verb == "tree":
            return self._answer(200, listed)
        told = {"id": name, "sha": sha, "private": name in self.hub.private, "tags": [], "downloads": 0}
        return self._answer(200, {**told, "siblings": [{"rfilename": n} for n in files]})

    do_HEAD = do_GET
