"""What the scanner finds in tars of every dialect, against `tarfile`; and that no damage passes unnoticed."""

import io
import random
import tarfile
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from data_pipeline import tar_members
from data_pipeline.location import RemotePath
from data_pipeline.tar_members import Sample, TarError, TarReader, scan_tar

Files = Iterable[tuple[str, bytes]]
PLAIN = [("a/0.jpg", b"\xff\xd8" + bytes(700)), ("a/0.cls", b"3"), ("a/1.jpg", b"x" * 512), ("a/1.cls", b"14")]


def write_tar(path: Path, files: Files, dialect: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=dialect) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def contents(path: Path) -> list[tuple[str, str, bytes]]:
    """Key, extension and bytes of each member, the bytes by the offsets found."""
    data = path.read_bytes()
    return [
        (sample.key, member.extension, data[member.offset : member.offset + member.size])
        for sample in scan_tar(path)
        for member in sample.members
    ]


def expected(files: Files) -> list[tuple[str, str, bytes]]:
    return [(*name.split(".", 1), data) for name, data in files]  # type: ignore[misc]


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect(tmp_path: Path, dialect: int) -> None:
    files = [*PLAIN, ("b/" * 60 + "long.jpg", b"long"), ("b/" * 60 + "long.json", b"{}")]
    if dialect != tarfile.USTAR_FORMAT:
        files += [("ü" * 150 + ".seg.png", b"long"), ("日本/" * 40 + "x.jpg", b"")]
    path = write_tar(tmp_path / "x.tar", files, dialect)
    assert contents(path) == expected(files)
    with tarfile.open(path) as tar:
        data_starts = [member.offset_data for member in tar]
        header_starts = [member.offset for member in tar]
    members = [member for sample in scan_tar(path) for member in sample.members]
    assert [member.offset for member in members] == data_starts
    assert [member.offset_of_header for member in members] == header_starts


def test_a_sample_can_be_read_from_its_own_bytes(tmp_path: Path) -> None:
    files = [*PLAIN, ("c/" * 80 + "é.jpg", b"1"), ("c/" * 80 + "é.txt", b"2"), ("d.jpg", b"3")]
    path = write_tar(tmp_path / "x.tar", files, tarfile.PAX_FORMAT)
    data, found = path.read_bytes(), []
    for sample in scan_tar(path):
        alone = tmp_path / "alone.tar"
        alone.write_bytes(data[sample.offset : sample.offset + sample.length] + bytes(1024))
        found += contents(alone)
        with TarReader(path) as tar:
            assert next(tar.members(sample.offset)) == sample.members[0]
    assert found == expected(files)


def test_sizes_in_base_256_and_in_pax_headers(tmp_path: Path) -> None:
    data = bytearray(write_tar(tmp_path / "x.tar", [("0.jpg", b"x" * 600), ("1.jpg", b"y")]).read_bytes())
    data[124:136] = b"\x80" + (600).to_bytes(11)
    (tmp_path / "x.tar").write_bytes(checked(data, 0))
    assert contents(tmp_path / "x.tar") == [("0", "jpg", b"x" * 600), ("1", "jpg", b"y")]
    with tarfile.open(tmp_path / "y.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("2.jpg")
        member.size, member.pax_headers = 600, {"size": "600"}
        tar.addfile(member, io.BytesIO(b"z" * 600))
    data = bytearray((tmp_path / "y.tar").read_bytes())
    data[1024 + 124 : 1024 + 136] = b"00000000000\0"  # as where the size does not fit
    (tmp_path / "y.tar").write_bytes(checked(data, 1024))
    assert contents(tmp_path / "y.tar") == [("2", "jpg", b"z" * 600)]


def checked(data: bytearray, position: int) -> bytearray:
    """With the checksum of the header at `position` made right."""
    data[position + 148 : position + 156] = b" " * 8
    data[position + 148 : position + 156] = b"%06o\0 " % sum(data[position : position + 512])
    return data


def test_what_is_no_sample_is_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c"}) as tar:
        for kind, name in (
            (tarfile.DIRTYPE, "a.folder"),
            (tarfile.SYMTYPE, "link.jpg"),
            (tarfile.LNKTYPE, "same.jpg"),
            (tarfile.FIFOTYPE, "pipe.jpg"),
            (tarfile.REGTYPE, "./README"),
            (tarfile.REGTYPE, "./._0.jpg"),
            (tarfile.REGTYPE, "a.b/.hidden.jpg"),
            (tarfile.REGTYPE, "__info__/x.jpg"),
            (tarfile.REGTYPE, "./a.b/0.JPG"),
            (tarfile.REGTYPE, "README"),
            (b"V", "volume.jpg"),
            (tarfile.REGTYPE, "a.b/0.seg.PNG"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, "elsewhere", 4 * (kind in (tarfile.REGTYPE, b"V"))
            tar.addfile(member, io.BytesIO(b"data"))
    samples = list(scan_tar(tmp_path / "x.tar"))
    assert [(sample.key, [m.extension for m in sample.members]) for sample in samples] == [
        ("a.b/0", ["jpg", "seg.png"])
    ]
    assert samples[0].members[0].name == "a.b/0.JPG"


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "./../x.jpg"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "x.tar", [("0.jpg", b"1"), (name, b"2")])
    with pytest.raises(TarError, match=rf"tar {path}: byte 1024: member '.*x\.jpg' leads out of the folder"):
        list(scan_tar(path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("0.jpg", b""), ("1.jpg", b""), ("0.cls", b"")], "byte 1024: sample 0 again, which was at byte 0"),
        ([("0.jpg", b""), ("0.JPG", b"")], "byte 512: sample 0: a second member .jpg"),
        (
            [(f"image.{i}.jpg", b"") for i in range(1001)],
            "sample image: .* over 1,000 of them; keys end at",
        ),
    ],
)
def test_samples_that_cannot_be_told_apart(tmp_path: Path, files: Files, message: str) -> None:
    with pytest.raises(TarError, match=message):
        list(scan_tar(write_tar(tmp_path / "x.tar", files)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "byte 0: the file ends without the zeros"),
        (b"\x1f\x8b", "byte 0: a header ends at byte 2"),
        (b"<html>" * 200, "byte 0: no tar header here"),
        (bytes(1024) + b"more", r"byte 1024: 4 bytes after the end .* several tars in one file"),
        (bytes(2_000_000), "byte 0: 2,000,000 bytes after the end"),
    ],
)
def test_what_is_no_tar(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(TarError, match=f"tar {tmp_path}/x.tar: {message}"):
        list(scan_tar(tmp_path / "x.tar"))


def test_tars_without_samples(tmp_path: Path) -> None:
    for size in (512, 1024, 10240):
        (tmp_path / "x.tar").write_bytes(bytes(size))
        assert list(scan_tar(tmp_path / "x.tar")) == []


def test_headers_that_say_too_little_or_too_much(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"size": "1"}) as tar:
        tar.addfile(tarfile.TarInfo("0.jpg"))
    with pytest.raises(TarError, match="byte 512: path or size of all members in one pax header"):
        list(scan_tar(path))
    for kind, records in ((b"S", b""), (b"x", b"22 GNU.sparse.major=1\n")):
        path.write_bytes(raw_header(kind, records) + bytes(1024))
        with pytest.raises(TarError, match=r"a sparse file, .* without --sparse"):
            list(scan_tar(path))
    for records in (b"99 path=x\n", b"path=x\n", b"9 path=x ", b"10 size=x\n"):
        path.write_bytes(raw_header(b"x", records) + bytes(1024))
        with pytest.raises(TarError, match=r"byte 512: a (damaged pax header|pax header whose size is no number)"):
            list(scan_tar(path))
    path.write_bytes(raw_header(b"L", b"name.jpg\0") + bytes(1024))
    with pytest.raises(TarError, match="byte 0: a header that announces a member, and after it the end"):
        list(scan_tar(path))
    path.write_bytes(raw_header(b"L", bytes(1_000_001)) + bytes(1024))
    with pytest.raises(TarError, match="byte 512: a header of 1,000,001 bytes"):
        list(scan_tar(path))


def raw_header(kind: bytes, data: bytes) -> bytes:
    header = bytearray(tarfile.TarInfo("././@LongLink").tobuf(tarfile.USTAR_FORMAT))
    header[156:157] = kind
    header[124:136] = b"%011o\0" % len(data)
    return bytes(checked(header, 0)) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_cut_anywhere_is_an_error(tmp_path: Path, dialect: int) -> None:
    files = [*PLAIN, ("e/" * 70 + "x.jpg", b"12"), ("e/" * 70 + "x.cls", b"1")]
    whole = write_tar(tmp_path / "whole.tar", files, dialect)
    data, samples = whole.read_bytes(), list(scan_tar(whole))
    end = samples[-1].offset + samples[-1].length
    cuts = {cut for boundary in range(0, end + 1, 512) for cut in (boundary - 1, boundary, boundary + 1)}
    path = tmp_path / "x.tar"
    for cut in sorted(cuts & set(range(end + 1))):
        path.write_bytes(data[:cut])
        assert_prefix_and_error(path, samples)
        path.write_bytes(data[:cut] + bytes(4 << 20))  # a copy into a file made large beforehand
        with pytest.raises(TarError, match=rf"tar {path}: byte \d+: "):
            list(scan_tar(path))
    path.write_bytes(data[: end + 512])
    assert list(scan_tar(path)) == samples


def assert_prefix_and_error(path: Path, samples: list[Sample]) -> None:
    found, scan = [], scan_tar(path)
    with pytest.raises(TarError, match=rf"tar {path}: byte \d+: "):
        found.extend(scan)
    assert found == samples[: len(found)]


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_flipped_bytes_of_headers_are_errors(tmp_path: Path, dialect: int) -> None:
    files = [*PLAIN, ("e/" * 70 + "x.jpg", b"12"), ("e/" * 70 + "x.cls", b"1"), ("ü.jpg", b"")]
    whole = write_tar(tmp_path / "whole.tar", files, dialect)
    data, samples, draw = whole.read_bytes(), list(scan_tar(whole)), random.Random(dialect)
    headers = [position for position in range(0, len(data), 512) if data[position + 257 : position + 262] == b"ustar"]
    path = tmp_path / "x.tar"
    for _ in range(600):
        damaged = bytearray(data)
        position = draw.choice(headers) + draw.randrange(512)
        damaged[position] ^= draw.randrange(1, 256)
        path.write_bytes(damaged)
        found = scanned(path)
        if isinstance(found, str):
            assert found.startswith(f"tar {path}: byte ")
        else:
            assert found == samples  # the padding of the checksum's own field


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_noise_never_hangs_or_fails_otherwise(tmp_path: Path, dialect: int) -> None:
    data = write_tar(tmp_path / "whole.tar", [*PLAIN, ("e/" * 70 + "x.jpg", b"12")], dialect).read_bytes()
    draw, path = random.Random(dialect), tmp_path / "x.tar"
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(draw.randrange(1, 40)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged[: draw.randrange(len(damaged))])
        found = scanned(path)
        assert isinstance(found, list) or found.startswith(f"tar {path}: byte ")


def scanned(path: Path) -> list[Sample] | str:
    """The samples, or what is said instead; any other exception passes through."""
    try:
        return list(scan_tar(path))
    except TarError as error:
        return str(error)


@pytest.fixture
def store() -> Iterator[tuple[RemotePath, dict[str, bytes]]]:
    """A folder of a store in memory."""
    import fsspec

    system = fsspec.filesystem("memory")
    yield RemotePath("memory://tars"), system
    system.rm("/tars", recursive=True)


def test_a_remote_tar_is_read_in_windows(
    tmp_path: Path, store: tuple[RemotePath, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    files = [(f"{i // 2:03d}.{('jpg', 'cls')[i % 2]}", draw.randbytes(draw.choice((1, 600, 9000)))) for i in range(80)]
    files += [("100.jpg", bytes(200_000)), ("100.cls", b"7")]
    path = write_tar(tmp_path / "x.tar", files)
    folder, system = store
    system.pipe("/tars/x.tar", path.read_bytes())  # type: ignore[attr-defined]
    ranges: list[tuple[int, int]] = []
    read_range = RemotePath.read_range

    def noted(self: RemotePath, start: int, stop: int) -> bytes:
        ranges.append((start, stop))
        return read_range(self, start, stop)

    monkeypatch.setattr(RemotePath, "read_range", noted)
    monkeypatch.setattr(tar_members, "_REMOTE_WINDOW", 20_000)
    with TarReader(folder / "x.tar") as tar:
        remote = [(sample, [tar.read(member) for member in sample.members[1:]]) for sample in tar.samples()]
    assert [sample for sample, _ in remote] == list(scan_tar(path))
    assert [texts for _, texts in remote] == [[data] for name, data in files if name.endswith(".cls")]
    size = path.stat().st_size
    assert sum(stop - start for start, stop in ranges) < size - 150_000  # most of the large image is passed over
    assert len(ranges) < 1.3 * (size - 200_000) / 20_000 + 5


def test_memory_is_flat_and_only_headers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with open(path, "wb") as file:
        for number in range(300):
            header = tarfile.TarInfo(f"{number:06d}.jpg")
            header.size = 1_000_000
            file.write(header.tobuf(tarfile.USTAR_FORMAT))
            file.seek(-(-1_000_000 // 512) * 512, io.SEEK_CUR)
        file.write(bytes(1024))
    tracemalloc.start()
    count = sum(1 for _ in scan_tar(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 300
    assert peak < 1_000_000
