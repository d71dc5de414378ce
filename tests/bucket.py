"""A Google Cloud Storage bucket in this process: the part of the JSON API that gcsfs, Orbax and TensorStore use.

Where gcsfs is not installed, a file system of fsspec with the same objects stands in for it.
"""

import base64
import contextlib
import http.server
import importlib.util
import io
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator

import fsspec
import pytest
from fsspec.registry import _registry
from orbax.checkpoint._src.path import gcs_utils

from jaxface import storage

NAME = "bucket"


class Objects(dict[str, tuple[int, bytes]]):
    """(generation, content) by name; every write has a generation of its own."""

    def write(self, name: str, content: bytes) -> None:
        self[name] = (max((generation for generation, _ in self.values()), default=0) + 1, content)

    def listed(self, prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
        """Names of the objects with this prefix, and the folders that stand for names with a further delimiter."""
        names, folders = [], set()
        for name in sorted(self):
            rest = name[len(prefix) :]
            if name.startswith(prefix) and delimiter and delimiter in rest:
                folders.add(prefix + rest[: rest.index(delimiter) + 1])
            elif name.startswith(prefix):
                names.append(name)
        return names, sorted(folders)

    def entry(self, name: str) -> dict[str, str]:
        generation, content = self[name]
        digest = base64.b64encode(b"\0" * 4).decode()
        times = {"updated": "2026-01-01T00:00:00.000Z", "timeCreated": "2026-01-01T00:00:00.000Z"}
        numbers = {"generation": str(generation), "metageneration": "1", "size": str(len(content))}
        return {"kind": "storage#object", "name": name, "bucket": NAME, "crc32c": digest, **times, **numbers}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests for the objects of its server."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *_) -> None:
        pass

    def answer(self, content: bytes | dict, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def missing(self) -> None:
        self.answer({"error": {"code": 404, "message": "not found"}}, 404)

    def parsed(self) -> tuple[str, dict[str, str], bytes]:
        """Name of the object, "" for others; parameters; body."""
        url = urllib.parse.urlsplit(self.path)
        found = re.search(r"/o/(.+)$", url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return urllib.parse.unquote(found[1]) if found else "", dict(urllib.parse.parse_qsl(url.query)), body

    def do_GET(self) -> None:
        name, parameters, _ = self.parsed()
        objects = self.server.objects
        if not name and not self.path.split("?")[0].endswith("/o"):
            self.answer({"kind": "storage#bucket", "name": NAME, "id": NAME})
        elif not name:
            names, folders = objects.listed(parameters.get("prefix", ""), parameters.get("delimiter", ""))
            first, last = parameters.get("startOffset", ""), parameters.get("endOffset", "\uffff")
            items = [objects.entry(name) for name in names if first <= name < last]
            self.answer({"kind": "storage#objects", "items": items, "prefixes": folders})
        elif name not in objects:
            self.missing()
        elif parameters.get("alt") == "media":
            self.content(*objects[name])
        else:
            self.answer(objects.entry(name))

    def content(self, generation: int, content: bytes) -> None:
        size, wanted = len(content), re.match(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        headers = {"x-goog-generation": str(generation), "x-goog-stored-content-length": str(size)}
        if not wanted:
            self.answer(content, headers=headers)
            return
        first = int(wanted[1]) if wanted[1] else size - int(wanted[2])
        last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
        if first >= size:
            self.answer(b"", 416, headers)
            return
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        self.answer(content[first : last + 1], 206, headers)

    def do_POST(self) -> None:
        if self.path.startswith("/upload/session"):
            self.do_PUT()
            return
        name, parameters, body = self.parsed()
        kind = parameters.get("uploadType")
        if kind == "media":
            self.store(parameters["name"], body, parameters)
        elif kind == "multipart":
            boundary = re.search(r"boundary=[\"']?([^\"';]+)", self.headers["Content-Type"])[1].encode()
            description, content = body.split(b"--" + boundary)[1:3]
            described = json.loads(description.split(b"\n\n" if b"\r\n\r\n" not in description else b"\r\n\r\n", 1)[1])
            separator = b"\r\n\r\n" if b"\r\n\r\n" in content else b"\n\n"
            content = content.split(separator, 1)[1]
            content = content[: -2 if content.endswith(b"\r\n") else -1]
            self.store(described["name"], content, parameters)
        elif kind == "resumable":
            described = json.loads(body or b"{}")
            query = urllib.parse.urlencode({"name": described.get("name") or parameters["name"]})
            self.answer({}, headers={"Location": f"{self.server.url}/upload/session?{query}"})
        elif "/rewriteTo/" in name or "/copyTo/" in name:
            source, target = re.match(r"(.*?)/(?:rewriteTo|copyTo)/b/[^/]+/o/(.*)", name).groups()
            self.server.objects.write(target, self.server.objects[source][1])
            self.answer({"done": True, "resource": self.server.objects.entry(target)})
        else:
            self.missing()

    def store(self, name: str, content: bytes, parameters: dict[str, str]) -> None:
        objects = self.server.objects
        expected = parameters.get("ifGenerationMatch")
        if expected is not None and int(expected) != objects.get(name, (0, b""))[0]:
            self.answer({"error": {"code": 412, "message": "generation"}}, 412)
            return
        objects.write(name, content)
        self.answer(objects.entry(name))

    def do_PUT(self) -> None:
        _, parameters, body = self.parsed()
        name, pending = parameters["name"], self.server.pending
        pending[name] = pending.get(name, b"") + body
        if re.search(r"/\*$", self.headers.get("Content-Range", "")):
            self.answer(b"", 308, {"Range": f"bytes=0-{len(pending[name]) - 1}"})
        else:
            self.store(name, pending.pop(name), {})

    def do_DELETE(self) -> None:
        name, *_ = self.parsed()
        if self.server.objects.pop(name, None) is None:
            self.missing()
        else:
            self.answer(b"", 204)


class Server(http.server.ThreadingHTTPServer):
    """The objects of one bucket behind a port of this machine."""

    daemon_threads = True

    def handle_error(self, *_) -> None:
        """Clients end connections that they no longer need."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.pending = Objects(), {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


def stand_in(objects: Objects) -> type[fsspec.AbstractFileSystem]:
    """A file system of fsspec with these objects, as far as epath uses it."""

    class Bucket(fsspec.AbstractFileSystem):
        protocol = ("gs", "gcs")
        cachable = False

        def ls(self, path, detail=True, **_):
            key = self.key(path)
            if key in objects:
                entries = [self.info(path)]
            else:
                names, folders = objects.listed(f"{key}/" if key else "", "/")
                entries = [self.info(f"{NAME}/{name.rstrip('/')}") for name in (*names, *folders)]
                if not entries:
                    raise FileNotFoundError(path)
            return entries if detail else [entry["name"] for entry in entries]

        def key(self, path):
            return self._strip_protocol(path).removeprefix(NAME).strip("/")

        def info(self, path, **_):
            key, name = self.key(path), self._strip_protocol(path)
            if key in objects:
                return {"name": name, "type": "file", "size": len(objects[key][1])}
            if key and not any(objects.listed(f"{key}/", "")):
                raise FileNotFoundError(path)
            return {"name": name, "type": "directory", "size": 0}

        def _open(self, path, mode="rb", **_):
            key = self.key(path)
            if "r" in mode:
                return io.BytesIO(objects[key][1]) if key in objects else self.info(path)["missing"]
            file = io.BytesIO()
            close = file.close
            file.close = lambda: file.closed or (objects.write(key, file.getvalue()), close())
            return file

        def cp_file(self, path1, path2, **_):
            if self.key(path1) not in objects:  # a folder, which is not copied itself
                raise FileNotFoundError(path1)
            objects.write(self.key(path2), objects[self.key(path1)][1])

        def rm_file(self, path):
            objects.pop(self.key(path), None)

        def rmdir(self, path):
            pass

        mkdir = makedirs = lambda self, path, **_: None

    return Bucket


@contextlib.contextmanager
def served(patch: pytest.MonkeyPatch) -> Iterator[Objects]:
    """The objects of the bucket NAME, which everything in this context reads and writes."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
        patch.setenv("EPATH_USE_TF", "false")
        patch.setenv("NO_GCE_CHECK", "true")
        if importlib.util.find_spec("gcsfs") is None:
            patch.setitem(_registry, "gcs", stand_in(server.objects))
            patch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
        forget()
        try:
            yield server.objects
        finally:
            forget()
            server.shutdown()


def forget() -> None:
    """Makes epath, gcsfs and jaxface connect anew."""
    from etils.epath import backend, gpath

    storage._unreachable.cache_clear()
    gpath._is_tf_installed.cache_clear()
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    gcs_utils.get_bucket.cache_clear()
    fsspec.AbstractFileSystem.clear_instance_cache()
