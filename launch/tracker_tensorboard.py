"""TensorBoard's event files: written record by record, and cut back where a run goes on from an earlier step.

Written here and not by the package's own writer, which loses what is in its queue when the process is killed, raises in
its own thread, and loads TensorFlow and boto3 where they are installed.
"""

import contextlib
import functools
import json
import os
import shlex
import socket
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_PATTERN = "events.out.tfevents."
_PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Of a PNG's colour type."""


class TensorBoard:
    """A new event file in `folder`, after those of earlier starts, which keep nothing later than step `start`.

    `events` is the module `tensorboard.compat.proto.event_pb2`. Everything raises OSError, and leaves whole records.
    """

    def __init__(
        self, events: Any, folder: Path, *, config: Mapping[str, Any], start: int, say: Callable[[str], None]
    ) -> None:
        self._events = events
        folder.mkdir(parents=True, exist_ok=True)
        earlier = sorted(folder.glob(_PATTERN + "*"))
        for path in earlier:
            _cut(path, start, events.Event)
        # Readers take the files in the order of their names, in which the time is what counts: a clock that goes back,
        # or a second start within a second, must not come before.
        newest = max((_seconds(path) for path in earlier), default=0)
        seconds = max(int(time.time()), newest + 1)
        name = f"{_PATTERN}{seconds:010d}.{socket.gethostname()}.{os.getpid()}"
        with contextlib.ExitStack() as undo:
            self._file = undo.enter_context(open(folder / name, "xb", buffering=0))
            self._add(0, file_version="brain.Event:2")
            # Tells a viewer that has read the old files already to forget these steps. It ignores the first of a
            # folder, so every start writes one.
            self._add(start + 1, session_log={"status": "START"})
            self._add_value(start, "config", **_text("    " + json.dumps(config, indent=2).replace("\n", "\n    ")))
            undo.pop_all()
        say(f"curves: tensorboard --logdir {shlex.quote(str(folder))}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One record of scalars, kept as 32-bit floats."""
        self._add(step, summary={"value": [{"tag": name, "simple_value": value} for name, value in values.items()]})

    def image(self, step: int, name: str, png: Path) -> None:
        """The file's bytes as they are. Raises ValueError for what is no PNG."""
        content = png.read_bytes()
        if not content.startswith(_PNG) or len(content) < 26:
            raise ValueError(f"{png}: expected a PNG file; write the figure as one")
        width, height, _, colour = struct.unpack_from(">IIBB", content, 16)
        shape = {"width": width, "height": height, "colorspace": _CHANNELS.get(colour, 3)}
        self._add_value(step, name, image={**shape, "encoded_image_string": content})

    def close(self) -> None:
        """Everything is in the file already."""
        self._file.close()

    def _add_value(self, step: int, tag: str, **content: Any) -> None:
        self._add(step, summary={"value": [{"tag": tag, **content}]})

    def _add(self, step: int, **content: Any) -> None:
        record = _framed(self._events.Event(wall_time=time.time(), step=step, **content).SerializeToString())
        before = self._file.tell()
        try:
            written = self._file.write(record)
            # The disk took a part: asking for the rest makes it say why.
            while written < len(record):
                written += self._file.write(record[written:])
        except OSError:
            # Readers do not get past a torn record.
            self._file.truncate(before)
            self._file.seek(before)
            raise


def _text(markdown: str) -> dict[str, Any]:
    return {
        "metadata": {"plugin_data": {"plugin_name": "text"}},
        "tensor": {"dtype": "DT_STRING", "tensor_shape": {}, "string_val": [markdown.encode()]},
    }


def _cut(path: Path, step: int, event_type: Any) -> None:
    """Removes what comes after `step` from a file of one start, in which steps never fall, and a torn end."""
    with open(path, "r+b") as file:
        whole = 0
        while (event := _next_event(file.read, event_type)) is not None:
            if event.step > step:
                break
            whole = file.tell()
        if whole < os.fstat(file.fileno()).st_size:
            file.truncate(whole)


def _next_event(read: Callable[[int], bytes], event_type: Any) -> Any:
    """None at the end, and where no whole record follows."""
    head = read(12)
    if len(head) < 12 or _checksum(head[:8]) != head[8:]:
        return None
    (length,) = struct.unpack("<Q", head[:8])
    content, checksum = read(length), read(4)
    if len(content) < length or len(checksum) < 4:
        return None
    from google.protobuf.message import DecodeError

    try:
        return event_type.FromString(content)
    except DecodeError:
        return None


def _framed(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    """CRC-32C, turned and shifted as the format asks."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for entry in range(256):
        crc = entry
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


def _seconds(path: Path) -> int:
    number = path.name.removeprefix(_PATTERN).partition(".")[0]
    return int(number) if number.isdigit() else 0
