"""The decoder of still pictures against pixels written down by hand, and its refusals."""

import io
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmt.data.images import (
    check_picture,
    open_picture,
    over_black,
    picture_size,
    read_frame,
    read_picture,
    turn_upright,
)
from vmt.utils.errors import VideoError

#: A stored picture of 2 x 3 pixels, and what viewers show of it by EXIF orientation.
STORED = [[1, 2, 3], [4, 5, 6]]
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, colour: int, width: int, rows: list[bytes], extra: bytes = b"") -> bytes:
    """A PNG put together by hand, so that no other encoder decides what it means."""

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def read(path: Path, content: bytes) -> list[list[list[int]]]:
    path.write_bytes(content)
    frame = read_picture(path)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    return frame.tolist()


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(np.array(STORED, np.uint8) * 40, np.ones((16, 16), np.uint8))
    path = tmp_path / f"a.{suffix}"
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(blocks).convert("RGB").save(path, exif=exif, **lossless)
    expected = UPRIGHT[orientation]
    frame = read_picture(path)
    shown = np.rint(frame[8::16, 8::16, 0] / 40).astype(int).tolist()
    assert shown == expected
    size = (16 * len(expected), 16 * len(expected[0]))
    assert picture_size(path) == size
    info = check_picture(path)
    assert (info.size, info.orientation) == (size, orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_upright(orientation: int) -> None:
    stored = np.array(STORED, np.uint8)
    assert turn_upright(stored, orientation).tolist() == UPRIGHT[orientation]


def test_grey_is_repeated(tmp_path: Path) -> None:
    assert read(tmp_path / "a.png", png(8, 0, 2, [bytes([7, 200])])) == [[[7] * 3, [200] * 3]]


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    pixels = read(tmp_path / "a.png", png(1, 0, 3, [bytes([0b101_00000])]))
    assert pixels == [[[255] * 3, [0] * 3, [255] * 3]]


def test_of_16_bits_the_upper_byte_counts(tmp_path: Path) -> None:
    """Grey and colour alike, whatever library wrote the file and in which byte order."""
    samples = [0x0000, 0x00FF, 0x1234, 0xFFFF]
    upper = [0x00, 0x00, 0x12, 0xFF]
    grey = png(16, 0, 4, [struct.pack(">4H", *samples)])
    assert read(tmp_path / "grey.png", grey) == [[[v] * 3 for v in upper]]
    colour = png(16, 2, 1, [struct.pack(">3H", 0xFFFF, 0x1234, 0x00FF)])
    assert read(tmp_path / "rgb.png", colour) == [[[0xFF, 0x12, 0x00]]]
    assert read(tmp_path / "a.pgm", b"P5 4 1 65535\n" + struct.pack(">4H", *samples)) == [
        [[v] * 3 for v in upper]
    ]
    array = np.array([samples], np.uint16)
    for name, order in (("le.tif", "<u2"), ("be.tif", ">u2")):
        Image.fromarray(array.astype(order)).save(tmp_path / name)
        assert read_picture(tmp_path / name)[0, :, 0].tolist() == upper


def test_transparency_is_put_over_black(tmp_path: Path) -> None:
    """Colour times opacity: 200 at 128 of 255 is 100.4, at 0 is black, whatever it hides."""
    rows = [bytes([200, 100, 50, 255, 200, 100, 50, 128, 200, 100, 50, 0])]
    expected = [[[200, 100, 50], [100, 50, 25], [0, 0, 0]]]
    assert read(tmp_path / "rgba.png", png(8, 6, 3, rows)) == expected
    rows = [bytes([200, 255, 200, 128, 200, 0])]
    assert read(tmp_path / "la.png", png(8, 4, 3, rows)) == [[[200] * 3, [100] * 3, [0] * 3]]
    deep = [struct.pack(">8H", *[200 << 8, 100 << 8, 50 << 8, 0xFFFF], *[200 << 8, 0, 0, 0])]
    assert read(tmp_path / "rgba16.png", png(16, 6, 2, deep)) == [[[200, 100, 50], [0, 0, 0]]]
    palette = chunk(b"PLTE", bytes([200, 100, 50, 9, 8, 7])) + chunk(b"tRNS", bytes([0, 255]))
    pixels = read(tmp_path / "p.png", png(8, 3, 2, [bytes([0, 1])], palette))
    assert pixels == [[[0, 0, 0], [9, 8, 7]]]
    key = chunk(b"tRNS", struct.pack(">3H", 200, 100, 50))
    pixels = read(tmp_path / "key.png", png(8, 2, 2, [bytes([200, 100, 50, 9, 8, 7])], key))
    assert pixels == [[[0, 0, 0], [9, 8, 7]]]


def test_over_black_rounds() -> None:
    rgba = np.array([[[255, 1, 128, 128], [255, 255, 255, 1]]], np.uint8)
    assert over_black(rgba).tolist() == [[[128, 1, 64], [1, 1, 1]]]


def test_palette_and_cmyk_are_the_colours_they_stand_for(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", bytes([200, 100, 50, 9, 8, 7]))
    pixels = read(tmp_path / "p.png", png(8, 3, 3, [bytes([1, 0, 1])], palette))
    assert pixels == [[[9, 8, 7], [200, 100, 50], [9, 8, 7]]]
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow: red
    ink.save(tmp_path / "c.jpg", quality=95)
    red = read_picture(tmp_path / "c.jpg")[8, 8].tolist()
    assert red[0] > 230
    assert max(red[1:]) < 40


def test_the_suffix_does_not_decide(tmp_path: Path) -> None:
    assert read(tmp_path / "really_a_png.jpg", png(8, 0, 1, [b"\x07"])) == [[[7, 7, 7]]]


def test_a_jpeg_with_a_preview_gives_the_picture(tmp_path: Path) -> None:
    """Phones and cameras write JPEGs that hold a second picture (MPO)."""
    main, preview = Image.new("RGB", (32, 16), (250, 0, 0)), Image.new("RGB", (8, 4))
    main.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    frame = read_picture(tmp_path / "a.jpg")
    assert frame.shape == (16, 32, 3)
    assert frame[..., 0].min() > 240


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_several_pictures_in_one_file(tmp_path: Path, suffix: str) -> None:
    pictures = [Image.new("RGB", (8, 8), (60 * k, 0, 9)) for k in range(3)]
    path = tmp_path / f"a.{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    for read_it in (read_picture, picture_size, check_picture):
        with pytest.raises(VideoError, match=r"holds 3 pictures, and a frame is one; save them"):
            read_it(path)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_whose_black_and_white_are_unknown(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(VideoError, match=r"a\.tif: its samples are .* numbers, whose black"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {}),
        ("a.jpg", {"progressive": True}),
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.webp", {}),
        ("a.ppm", {}),
    ],
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_off(tmp_path: Path, name: str, options: dict[str, object], share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name, **options)
    data = (tmp_path / name).read_bytes()
    end = int(len(data) * share)
    contents = [data[:end]]
    if name in ("a.jpg", "a.png"):  # elsewhere zero bytes are lawful samples
        contents.append(data[:end] + bytes(len(data) - end))  # allocated, but not copied
    for content in contents:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=rf"{name}: cannot be read as an image"):
            read_picture(tmp_path / name)
        with pytest.raises(VideoError, match=rf"{name}: cannot be read as an image"):
            check_picture(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\); the copy or download broke off"),
        (
            b"<!DOCTYPE html><html>Sign in</html>",
            "it is a web page, .*download the file in a browser",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "it is a Git LFS pointer; .*git lfs pull",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is a HEIC picture; convert it to JPEG"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "it is an MP4 or MOV video; .*give it as a video"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", r"it is a side file of macOS; .*without \._"),
        (bytes(400), "it is filled with zero bytes, .*copy it again"),
        (bytes(range(256)) * 4, "it is of another kind than those known here .*convert it"),
    ],
)
def test_what_is_no_picture(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    for read_it in (read_picture, picture_size):
        with pytest.raises(VideoError, match=rf"a\.jpg: .*{message}") as caught:
            read_it(tmp_path / "a.jpg")
        assert "\n" not in str(caught.value)


def test_paths_without_a_picture(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"a\.png: no such file; check the folder"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(VideoError, match="is a folder; give a file"):
        read_picture(tmp_path)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    (tmp_path / "a.png").write_bytes(png(8, 0, 9, [bytes(9)] * 9))
    with pytest.raises(VideoError, match=r"too large to be a frame \(over 80 pixels\); resize"):
        read_picture(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_damaged_headers_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte of the headers set to 255 in turn: pixels or a VideoError, nothing else."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # else some decode 100 million pixels
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    refused = 0
    for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind, exif=exif)
        for place in range(0, min(len(buffer.getvalue()), 160), 2):
            data = bytearray(buffer.getvalue())
            data[place] = 255
            (tmp_path / "a").write_bytes(data)
            for read_it in (read_picture, picture_size):
                try:
                    read_it(tmp_path / "a")
                except VideoError:
                    refused += 1
    assert refused > 100


def test_16_bit_pictures_of_few_values_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Depth, thermal and raw cameras store 10 to 12 bits in 16: nearly black here."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(16, 0, 2, [struct.pack(">2H", 0, 4095)]))
        with caplog.at_level(logging.WARNING):
            read_picture(tmp_path / name)
    (record,) = caplog.records
    assert "use at most the lowest 12 bits" in record.getMessage()


def test_open_picture_keeps_palette_indices(tmp_path: Path) -> None:
    palette = chunk(b"PLTE", bytes([200, 100, 50, 9, 8, 7]))
    (tmp_path / "p.png").write_bytes(png(8, 3, 2, [bytes([1, 0])], palette))
    with open_picture(tmp_path / "p.png") as image:
        assert np.array(image).tolist() == [[1, 0]]


def test_frames_have_the_size_of_the_annotations(tmp_path: Path) -> None:
    ramp = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_frame(tmp_path / "a.png", (6, 8)), np.stack([ramp] * 3, axis=-1)
    )
    with pytest.raises(VideoError, match=r"a\.png: is 8x6 pixels, but the annotations .* 6x8"):
        read_frame(tmp_path / "a.png", (8, 6))


def test_a_size_that_exif_explains(tmp_path: Path) -> None:
    ramp = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(VideoError, match=r"6x8 pixels \(turned upright by its EXIF .* for 8x6"):
        read_frame(tmp_path / "a.jpg", (6, 8))
