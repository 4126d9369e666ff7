"""A Hugging Face Hub on this machine: as much of its interface as creating, committing, listing and fetching need."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


class LocalHub:
    """
    What is stored, and a server for it.

    :ivar files: content of each file by repository and name
    :ivar private: whether each repository is private
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.uploads: dict[str, bytes] = {}

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve, on loopback; gives the address."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers requests of ``huggingface_hub``."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def _body(self) -> bytes:
        """Read what was sent, whole or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content: bytes | dict[str, Any] | list[Any], status: int = 200, **headers: str) -> None:
        """Send an answer."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _address(self) -> str:
        """Name this server."""
        return f"http://{self.headers['Host']}"

    def do_POST(self) -> None:  # the name that http.server calls
        """Create a repository, say how files are to be sent, take a commit."""
        body = self._body()
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            self.hub.files.setdefault(name, {})
            # "visibility" from version 1 of huggingface_hub on, "private" before it.
            self.hub.private.setdefault(name, asked["visibility"] == "private" if "visibility" in asked else asked["private"])
            self._answer({"url": f"{self._address()}/{name}", "name": name})
        elif parts == ["api", "validate-yaml"]:
            self._answer({"errors": [], "warnings": []})
        elif parts[-2] == "preupload":
            # As on the Hub: text goes into the commit, the rest to a store beforehand.
            names = [one["path"] for one in json.loads(body)["files"]]
            text = (".md", ".yml", ".json", ".csv")
            modes = [{"path": name, "uploadMode": "regular" if name.endswith(text) else "lfs"} for name in names]
            self._answer({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self._address()}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif parts[-2] == "commit":
            files = self.hub.files["/".join(parts[2:4])]
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
                elif one["key"] == "lfsFile":
                    files[one["value"]["path"]] = self.hub.uploads[one["value"]["oid"]]
            url = f"{self._address()}/{'/'.join(parts[2:4])}/commit/{COMMIT}"
            self._answer({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        else:
            self._answer({"error": f"no such thing: {self.path}"}, 404)

    def do_PUT(self) -> None:
        """Take a file into the store."""
        self.hub.uploads[self.path.rpartition("/")[2]] = self._body()
        self._answer(b"")

    def do_HEAD(self) -> None:
        """Say what a file is."""
        self.do_GET()

    def do_GET(self) -> None:
        """List a repository, or give a file."""
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        files = self.hub.files.get(name)
        if files is None:
            self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif api and "tree" in parts:
            self._answer([{"type": "file", "path": one, "size": len(files[one]), "oid": "0" * 40} for one in files])
        elif api:
            siblings = [{"rfilename": one} for one in files]
            self._answer({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif (one := "/".join(parts[4:])) in files:
            etag = hashlib.sha256(files[one]).hexdigest()
            self._answer(files[one], ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        else:
            self._answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
