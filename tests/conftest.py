"""Fixtures that several test modules share."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

NAMES = {404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}


class FailingServer:
    """WSGI application that answers some requests with an error instead of having them done.

    Every other write and removal that is answered with 500 or 503 has happened all the same.
    """

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application
        self.fail: Callable[[str, str], int | None] = lambda method, path: None
        self.failed: list[tuple[int, str, str]] = []
        self._writes = 0

    def __call__(self, request: dict[str, Any], respond: Callable[..., Any]) -> Any:
        method, path = request["REQUEST_METHOD"], request["PATH_INFO"]
        query = request.get("QUERY_STRING", "")
        status = self.fail(f"LIST {query}" if method == "GET" and "list-type" in query else method, path)
        if status is None:
            return self.application(request, respond)
        self.failed.append((status, method, path))
        self._writes += method not in ("GET", "HEAD")
        if method not in ("GET", "HEAD") and status != 404 and self._writes % 2:
            list(self.application(request, lambda *_: None))
        else:
            request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        name = NAMES[status]
        body = b"" if method == "HEAD" else f"<Error><Code>{name}</Code><Message>{name}</Message></Error>".encode()
        respond(f"{status} {name}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@pytest.fixture(scope="session")
def s3() -> Iterator[FailingServer]:
    """An object store on this machine, for as long as the tests last: s3fs remembers where it found the first one."""
    moto = pytest.importorskip("moto.server")
    from werkzeug.serving import make_server

    application = FailingServer(moto.DomainDispatcherApplication(moto.create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=moto.MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # what is asked again is asked by us
        thread.start()
        yield application
        server.shutdown()
        thread.join()
        server.server_close()
