"""A hub of one folder of models and data sets on this machine, as huggingface_hub sees one through HF_ENDPOINT."""

import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve_hub(models: Path, refused: dict[str, str] | None = None) -> Iterator[tuple[str, Sequence[str]]]:
    """(endpoint, the requested paths so far) of a hub with the models, or data sets, `models/OWNER/NAME`.

    `refused` names models that exist and are not given, with the hub's code of the reason.
    """
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path.lstrip("/")
            asked.append(path)
            if "/resolve/" in path:
                name, _, place = path.partition("/resolve/")
                self._send_file(name.removeprefix("datasets/"), place.partition("/")[2])
                return
            owner, model, *rest = path.removeprefix("api/models/").removeprefix("api/datasets/").split("/")
            name = f"{owner}/{model}"
            if refused and name in refused:
                self._send(403, b"{}", {"X-Error-Code": refused[name]})
            elif not (models / name).is_dir():
                self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            else:
                paths = [str(path.relative_to(models / name)) for path in sorted((models / name).rglob("*"))]
                files = [{"rfilename": path} for path in paths if (models / name / path).is_file()]
                info = {"id": name, "sha": COMMIT, "siblings": files}
                folder, is_recursive = "/".join(rest[2:]), "recursive=true" in self.path.lower()
                inside = [path for path in paths if path.startswith(f"{folder}/" if folder else "")]
                direct = [path for path in inside if str(Path(path).parent) == (folder or ".")]
                tree = [self._entry(name, path) for path in (inside if is_recursive else direct)]
                self._send(200, json.dumps(tree if "tree" in rest else info).encode())

        def do_POST(self) -> None:
            """Which of the named paths there are: files and folders."""
            path = urlsplit(self.path).path.lstrip("/")
            asked.append(path)
            name = "/".join(path.removeprefix("api/datasets/").split("/")[:2])
            body = self.rfile.read(int(self.headers["Content-Length"]))
            wanted = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
            entries = [self._entry(name, file) for file in wanted if (models / name / file).exists()]
            self._send(200, json.dumps(entries).encode())

        def _entry(self, name: str, file: str) -> dict[str, object]:
            path = models / name / file
            if path.is_dir():
                return {"type": "directory", "path": file, "oid": COMMIT}
            return {"type": "file", "path": file, "size": path.stat().st_size, "oid": self._digest(path)}

        def _send_file(self, name: str, file: str) -> None:
            path = models / name / file
            if not path.is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            data, headers = path.read_bytes(), {"ETag": f'"{self._digest(path)}"', "X-Repo-Commit": COMMIT}
            if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
                self._send(206, data[start : end + 1], headers)
                return
            self._send(200, data, headers)

        def _digest(self, path: Path) -> str:
            return hashlib.sha1(path.read_bytes()).hexdigest()

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def endless_endpoint() -> Iterator[str]:
    """A port that accepts connections and sends a header without an end, so that no wait for its next byte is long."""

    def answer(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # both ends close theirs
            connection, _ = listening.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while True:
                connection.sendall(b"x")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def closed_endpoint() -> str:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"
