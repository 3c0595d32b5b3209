"""A stand-in for huggingface.co on loopback: the calls a download makes, and nothing else.

    GET  /api/models/ID/revision/REVISION     the commit of a branch, a tag or a pull request
    GET  /api/models/ID/tree/COMMIT           the files of a commit
    HEAD, GET /ID/resolve/COMMIT/FILE         a file: its etag and commit, its content

A repository can be gated, and refuses as the hub does: with a status and `X-Error-Code`.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """One model: its files, of one commit, and who may have them."""

    files: dict[str, bytes]
    commit: str = "c" * 40
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    """What must be shown to get files; None: nothing."""
    fails: int | None = None
    """A status with which everything is answered."""


@dataclass
class Hub:
    """The stand-in, running."""

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Method and path of every request, in order."""


@contextmanager
def standing_in() -> Iterator[Hub]:
    """Run a stand-in on a free port of loopback."""
    hub = Hub(address="")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(content=True)

        def do_HEAD(self) -> None:
            self._answer(content=False)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self, *, content: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            api = path.startswith("/api/models/")
            owner, name, kind, *rest = path.removeprefix("/api/models").split("/")[1:]
            found = hub.repositories.get(f"{owner}/{name}")
            if found is None:
                return self._refuse(401, "RepoNotFound")
            if found.fails is not None:
                return self._refuse(found.fails, "")
            revision = "/".join(rest) if api else rest[0]
            if revision not in (*found.revisions, found.commit):
                return self._refuse(404, "RevisionNotFound")
            if kind == "revision":
                return self._say(json.dumps({"id": f"{owner}/{name}", "sha": found.commit}))
            if kind == "tree":
                rows = [
                    {"type": "file", "path": p, "size": len(c), "oid": _etag(c)}
                    for p, c in found.files.items()
                ]
                return self._say(json.dumps(rows))
            shown = self.headers.get("authorization", "").removeprefix("Bearer ")
            if found.token is not None and shown != found.token:
                return self._refuse(403 if shown else 401, "GatedRepo")
            body = found.files["/".join(rest[1:])]
            headers = {"ETag": f'"{_etag(body)}"', "X-Repo-Commit": found.commit}
            return self._say(body, headers, content=content)

        def _say(
            self, body: str | bytes, headers: dict[str, str] | None = None, *, content: bool = True
        ) -> None:
            whole = body.encode() if isinstance(body, str) else body
            self.send_response(200)
            for key, value in {**(headers or {}), "Content-Length": str(len(whole))}.items():
                self.send_header(key, value)
            self.end_headers()
            if content:
                self.wfile.write(whole)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
