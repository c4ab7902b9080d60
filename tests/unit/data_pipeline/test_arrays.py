"""Images stored as arrays: every shape and type that is accepted, and refusals of all else, whatever the bytes."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.arrays import DTYPES, DecodeError, read_array, read_header
from data_pipeline.decode import decode, read_strictly

SHAPES = [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4), (5, 7, 13), (1, 1)]


def values_of(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * 60_000).astype(dtype)


def npy(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, **options)
    return buffer.getvalue()


def header_only(shape: object, descr: object = "<u2", fortran: object = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "descr": descr, "fortran_order": fortran})
    return buffer.getvalue()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_are_read_as_they_were_written(shape: tuple[int, ...], dtype: str, version: tuple[int, int]) -> None:
    values = values_of(shape, dtype)
    facts, pixels = read_strictly(npy(values, version=version))
    assert facts == ("npy", shape[1], shape[0], 1, pixels.shape[2], dtype)
    np.testing.assert_array_equal(pixels, values.reshape(*shape[:2], -1))
    np.testing.assert_array_equal(decode(memoryview(npy(values))), pixels)


@pytest.mark.parametrize("shape", SHAPES)
def test_other_orders_of_values_and_bytes_are_converted(shape: tuple[int, ...]) -> None:
    values = values_of(shape, "uint16")
    for stored in (np.asfortranarray(values), values.astype(">u2"), np.asfortranarray(values.astype(">u2"))):
        pixels = read_array(npy(stored))
        assert pixels.flags.c_contiguous
        assert pixels.dtype.isnative
        np.testing.assert_array_equal(pixels, values.reshape(*shape[:2], -1))


def test_bytes_are_not_copied() -> None:
    memory = bytearray(npy(values_of((5, 7, 4), "float32")))
    pixels = read_array(memoryview(memory).toreadonly())
    assert not pixels.flags.writeable
    memory[-4:] = np.float32(-1).tobytes()
    assert pixels[4, 6, 3] == -1


@pytest.mark.parametrize("dtype", ["int16", "float64", "float16", "bool", "complex64", "S3"])
def test_other_types_are_refused_saying_which_are_accepted(dtype: str) -> None:
    with pytest.raises(DecodeError, match=r"an array of \w+; accepted: uint8, uint16, float32"):
        read_strictly(npy(np.zeros((4, 5), dtype)))


def test_structures_are_refused() -> None:
    for dtype in ([("a", "u1")], ("<u2", (3,))):
        with pytest.raises(DecodeError, match="accepted: uint8, uint16, float32"):
            read_array(header_only((4, 5), np.lib.format.dtype_to_descr(np.dtype(dtype))) + bytes(400))


def test_nothing_is_unpickled() -> None:
    with pytest.raises(DecodeError, match="an array of object; accepted"):
        read_array(npy(np.array([[{"a": 1}]], object)))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 5), (0, 5), (5, 0, 3), (5, 6, 0), (-1, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DecodeError, match=r"an array of shape \(.*\); accepted: \(height, width\) and"):
        read_array(header_only(shape))


@pytest.mark.parametrize("change", [-1, -100, 1, 4096])
def test_cut_files_and_what_follows_them_are_refused(change: int) -> None:
    data = npy(values_of((5, 7, 4), "uint16"))
    altered = data[:change] if change < 0 else data + bytes(change)
    with pytest.raises(DecodeError, match=r"5 x 7 x 4 values of uint16 take 408 bytes, found \d"):
        read_strictly(altered)


@pytest.mark.parametrize("kept", [6, 8, 9, 10, 60, 127])
def test_cut_headers_are_refused(kept: int) -> None:
    with pytest.raises(DecodeError, match="not a whole array"):
        read_strictly(npy(values_of((5, 7), "uint8"))[:kept])


def test_bombs_are_refused_by_their_header() -> None:
    with pytest.raises(DecodeError, match="60000 x 60000 pixels: more than 178,956,970, taken for a decompression"):
        read_array(header_only((60_000, 60_000, 3)))
    with pytest.raises(DecodeError, match=r"values of uint16 take \d[\d,]+ bytes, found 128"):
        read_array(header_only((4, 4, 2**70)))


def test_headers_are_read_from_the_first_bytes_alone() -> None:
    data = npy(values_of((500, 700, 4), "uint16"))
    assert read_header(data[:4096]) == (128, (500, 700, 4), np.dtype("<u2"), False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_would_spoil_a_loss_are_refused(value: float) -> None:
    values = values_of((5, 7, 4), "float32")
    values[2, 3, 1] = value
    with pytest.raises(DecodeError, match="1 of 140 values are NaN or infinite"):
        read_strictly(npy(values))


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_after_the_magic_are_read_or_refused(noise: bytes, valid_length: bool) -> None:
    length = len(noise).to_bytes(2, "little") if valid_length else b""
    with pytest.raises(DecodeError):
        read_array(b"\x93NUMPY\x01\x00" + length + noise)


@given(
    st.recursive(
        st.one_of(st.integers(), st.text(max_size=6), st.booleans(), st.none(), st.sampled_from(["<u2", "|u1", "|O"])),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner, inner)),
        max_leaves=6,
    ),
    st.sampled_from(["shape", "descr", "fortran_order"]),
)
def test_any_header_is_read_or_refused(value: object, name: str) -> None:
    header = repr({"shape": (2, 3), "descr": "<u2", "fortran_order": False} | {name: value}).encode("utf-8")
    data = b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header + bytes(12)
    try:
        pixels = read_array(data)
    except DecodeError:
        return
    assert pixels.nbytes in (6, 12)


def test_nested_headers_are_refused() -> None:
    header = (b"[" * 4000) + (b"]" * 4000)
    with pytest.raises(DecodeError, match="not a whole array"):
        read_array(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
