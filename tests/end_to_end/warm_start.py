"""A process that has imported the libraries, and forks into the scripts that tests ask for.

Importing torch and timm takes a process seconds of a core, most of what a tiny run takes. The scripts and all of the
product are imported anew in each fork, which is a process like any other: its own session, environment, files and end.
Two things are others. What a start makes by chance, such as the order of sets, is the same in all forks: what they are
compared with is therefore started by plain `python`. And what libraries read when they are imported has been read: what
scripts tell torch by variables before they import it is tested in processes of their own as well.

python warm_start.py FD: the socket of `runs.py`. A request is one packet, {"words", "environment", "folder"} as JSON,
with four files: stdin, stdout, stderr and a socket that is told the process's id, and later its exit code.
"""

import json
import os
import runpy
import select
import socket
import sys
from importlib import import_module
from pathlib import Path

MOST_BYTES = 200_000  # of a request; a packet of this kind of socket holds no more
LIBRARIES = (
    "torch",
    "torch._dynamo",
    "timm",
    "accelerate",
    "tyro",
    "sklearn.datasets",
    "sklearn.linear_model",
    "matplotlib.figure",
    "pyarrow.parquet",
    "simplejpeg",
    "tensorboard.compat.proto.event_pb2",
)


def serve(control: socket.socket) -> bool:
    """Fork for each request; True in a fork, which has then become what was asked for, False when tests have ended."""
    started: dict[int, tuple[int, socket.socket]] = {}  # by the file that tells of its end
    while True:
        ready, _, _ = select.select([control, *started], [], [])
        for ended in set(ready) & started.keys():
            pid, teller = started.pop(ended)
            tell(teller, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            teller.close()
            os.close(ended)
        if control not in ready:
            continue
        packet, files, _, _ = socket.recv_fds(control, MOST_BYTES, 4)
        if not packet:
            return False
        pid = os.fork()
        if pid == 0:
            control.close()
            for other, (_, teller) in started.items():
                teller.close()
                os.close(other)
            os.close(files.pop())
            become(json.loads(packet), files)
            return True
        teller = socket.socket(fileno=files.pop())
        for file in files:
            os.close(file)
        tell(teller, pid)
        started[os.pidfd_open(pid)] = pid, teller


def tell(teller: socket.socket, number: int) -> None:
    """Whoever asked may have ended."""
    try:
        teller.send(str(number).encode())
    except OSError:
        return


def become(request: dict[str, object], files: list[int]) -> None:
    """What the command line of a script would have made of a new process, up to the script itself."""
    os.setsid()
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.argv = list(request["words"])
    sys.path.insert(0, str(Path(sys.argv[0]).parent))


if __name__ == "__main__":
    del sys.path[0]
    for library in LIBRARIES:
        import_module(library)
    threads = sorted(task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm"))
    # A fork has only the thread that forks. pyarrow's allocator knows of that, and gets on without its own.
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1, threads
    if not serve(socket.socket(fileno=int(sys.argv[1]))):
        os._exit(0)  # at once: to take all that was imported apart takes seconds
    runpy.run_path(sys.argv[0], run_name="__main__")
