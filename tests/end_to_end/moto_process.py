"""moto's S3 as a server that holds a folder before it listens, keeps a log and can be slow.

python moto_process.py FOLDER BUCKET PORT LOG RATE
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import run_simple


def serve(folder: Path, bucket: str, port: int, log: Path, rate: int) -> None:
    """Load every file of the folder, and answer at `rate` bytes a second each (0: at once), with a line in the log."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(bucket, "us-east-1")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        backend.put_object(bucket, str(path.relative_to(folder.parent)), path.read_bytes())
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        status = ""

        def start(line: str, *rest: Any) -> Any:
            nonlocal status
            status = line
            return start_response(line, *rest)

        body = b"".join(moto(environment, start))
        piece = max(1, rate // 50)
        for begin in range(0, len(body), piece) if rate else ():
            yield body[begin : begin + piece]
            time.sleep(1 / 50)
        if not rate:
            yield body
        line = {
            "method": environment["REQUEST_METHOD"],
            "path": environment["PATH_INFO"],
            "status": int(status.split(maxsplit=1)[0]),
            "sent": len(body),
            "range": environment.get("HTTP_RANGE", ""),
            "user": "",
            "query": environment["QUERY_STRING"],
        }
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    run_simple("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
