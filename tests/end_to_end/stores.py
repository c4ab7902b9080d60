"""Stores on this machine that serve a folder: nginx and two S3 servers, started and killed at will.

    with stores.nginx(folder, state) as store:
        subprocess.run(command_with(store.url), env=os.environ | store.environment)
        store.kill()
        store.start()
        store.requests()

Killed with -9 and started again they are at the same address. Ports come from the operating system. Test files cannot
import this under pytest's importlib mode: they get it as the fixture `stores`.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

import pytest

BUCKET = "a-bucket"
S3RVER_KEYS = ("S3RVER", "S3RVER")  # the only ones that it knows
MOTO_KEYS = ("AKIAINVENTED0EXAMPLE", "an/invented/secret/key/for/tests/of/moto")  # it takes any
_NGINX = """
daemon off;
master_process off;
pid pid;
error_log error.log warn;
events {{ worker_connections 512; }}
http {{
    log_format counted escape=json '{{"method": "$request_method", "path": "$uri", "status": $status, '
        '"sent": $body_bytes_sent, "range": "$http_range", "user": "$remote_user", "query": "$args"}}';
    access_log access.log counted;
    client_body_temp_path temporary;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        limit_rate {rate};
        {access}
    }}
}}
"""

STARTED: list["Store"] = []
"""Every store of these tests, so that none outlives them when one fails."""


class Request(NamedTuple):
    """One answered request: its path below the served folder, status, bytes of the answer's body, and the first and
    last byte asked for, both counted (None for the whole file)."""

    method: str
    path: str
    status: int
    sent: int
    range: tuple[int, int] | None
    user: str
    query: str


class Store:
    """A server in a process of its own, started and killed at will; always at the same address.

    Args:
        words: the command.
        port: where it will listen.
        state: a folder for its files and what it prints.
        url: of the served folder, for clients.
        environment: what clients need besides.
        log: the file of its requests, one JSON object a line, None where it keeps none.
    """

    def __init__(
        self, words: list[str], port: int, state: Path, *, url: str, environment: Mapping[str, str], log: Path | None
    ) -> None:
        self._words, self._port, self._state, self._log = words, port, state, log
        self.url = url
        self.environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        STARTED.append(self)

    def __enter__(self) -> "Store":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, again or for the first time, and return once it answers."""
        assert self._process is None, "it is running"
        with (self._state / "printed").open("ab") as printed:
            self._process = subprocess.Popen(
                self._words, cwd=self._state, stdout=printed, stderr=printed, stdin=subprocess.DEVNULL
            )
        _wait_until_it_answers(self._port, self._process, self._state)

    def kill(self) -> None:
        """Kill it with -9, whatever it is doing: its connections break off, new ones are refused."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def requests(self, suffix: str = "") -> list[Request]:
        """What it has answered since the last `forget`, of paths that end so. What a kill broke off is not listed."""
        assert self._log is not None, "this store keeps no log"
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        found = [_request(json.loads(line)) for line in lines]
        return [request for request in found if request.path.endswith(suffix) and request.method != "PROBE"]

    def forget(self) -> None:
        """Begin `requests` anew."""
        assert self._log is not None, "this store keeps no log"
        if self._log.exists():
            os.truncate(self._log, 0)  # both servers append


def nginx(
    folder: Path, state: Path, *, rate: int = 0, user: tuple[str, str] | None = None, query: str | None = None
) -> Store:
    """nginx that serves a folder as http://127.0.0.1:PORT/NAME; skips the test where there is none.

    Args:
        folder: what is served, under its own name.
        state: an empty or absent folder for the server's own files.
        rate: most bytes a second of each connection, 0 for no limit.
        user: name and password without which nothing is served.
        query: what must stand behind `?`, as in a signed URL.
    """
    command = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if command is None:
        pytest.skip("no nginx: apt-get install nginx-light")
    state.mkdir(parents=True, exist_ok=True)
    access = ""
    if user is not None:
        (state / "passwords").write_text(f"{user[0]}:{{PLAIN}}{user[1]}\n")
        access += f"auth_basic pictures; auth_basic_user_file {state}/passwords;"
    if query is not None:
        access += f' if ($args != "{query}") {{ return 403; }}'
    port = free_port()
    configuration = _NGINX.format(port=port, root=folder.parent, rate=rate, access=access)
    (state / "nginx.conf").write_text(configuration)
    words = [command, "-p", f"{state}/", "-c", f"{state}/nginx.conf", "-e", f"{state}/error.log"]
    credentials = f"{user[0]}:{user[1]}@" if user else ""
    url = f"http://{credentials}127.0.0.1:{port}/{folder.name}{f'?{query}' if query else ''}"
    return Store(words, port, state, url=url, environment={}, log=state / "access.log")


def moto_s3(folder: Path, state: Path, *, rate: int = 0) -> Store:
    """moto's S3, in memory, which loads the folder before it listens, so that a restart serves all of it at once.

    Arguments as those of `nginx`. Skips the test where moto is not installed.
    """
    pytest.importorskip("moto.server", reason="no S3 server: pip install 'moto[server]'")
    state.mkdir(parents=True, exist_ok=True)
    port = free_port()
    log = state / "access.log"
    script = Path(__file__).with_name("moto_process.py")
    words = [sys.executable, str(script), str(folder), BUCKET, str(port), str(log), str(rate)]
    environment = _s3_environment(port, MOTO_KEYS)
    return Store(words, port, state, url=f"s3://{BUCKET}/{folder.name}", environment=environment, log=log)


def s3rver(folder: Path, state: Path) -> Store:
    """s3rver, an S3 server that keeps its files on the disk; npm installs it beside `state`, or the test is skipped."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm, which installs s3rver")
    state.mkdir(parents=True, exist_ok=True)
    place = state.parent / "node"
    place.mkdir(exist_ok=True)
    install = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(place), "s3rver@3"]
    installed = subprocess.run(install, capture_output=True, text=True, timeout=180, check=False)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install s3rver: {installed.stderr.strip().splitlines()[-1:]}")
    port = free_port()
    words = [str(place / "node_modules/.bin/s3rver"), "--directory", str(state / "objects"), "--silent"]
    words += ["--address", "127.0.0.1", "--port", str(port), "--no-vhost-buckets", "--configure-bucket", BUCKET]
    environment = _s3_environment(port, S3RVER_KEYS)
    store = Store(words, port, state, url=f"s3://{BUCKET}/{folder.name}", environment=environment, log=None)
    with store:
        _upload(folder, environment["AWS_ENDPOINT_URL"])
    return store


def _upload(folder: Path, endpoint: str) -> None:
    """Every file of a folder into the bucket, under the folder's name."""
    boto3 = pytest.importorskip("boto3", reason="no client that uploads: pip install boto3")
    from botocore.config import Config

    checksums = Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"})
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=S3RVER_KEYS[0],
        aws_secret_access_key=S3RVER_KEYS[1],
        region_name="us-east-1",
        config=checksums,
    )
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        client.put_object(Bucket=BUCKET, Key=str(path.relative_to(folder.parent)), Body=path.read_bytes())
    client.close()


def _s3_environment(port: int, keys: tuple[str, str]) -> dict[str, str]:
    """Nothing of the machine's own configuration, and no checksum that these servers do not send."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": keys[0],
        "AWS_SECRET_ACCESS_KEY": keys[1],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_it_answers(port: int, process: "subprocess.Popen[bytes]", state: Path, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    probe = urllib.request.Request(f"http://127.0.0.1:{port}/", method="PROBE")
    while True:
        try:
            urllib.request.urlopen(probe, timeout=5).close()
        except HTTPError as error:  # whatever it says of such a request
            error.close()
            return
        except OSError:
            printed = (state / "printed").read_text()
            assert process.poll() is None, f"the store ended, exit code {process.returncode}\n{printed}"
            assert time.monotonic() < deadline, f"the store does not answer after {timeout:g} s\n{printed}"
            time.sleep(0.02)
        else:
            return


def _request(line: dict[str, Any]) -> Request:
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", line["range"])
    span = None if found is None else (int(found[1]), int(found[2]))
    inner = line["path"].lstrip("/").removeprefix(f"{BUCKET}/").partition("/")[2]
    return Request(line["method"], inner, line["status"], line["sent"], span, line["user"], line["query"])
