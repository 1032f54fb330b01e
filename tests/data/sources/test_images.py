import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from onediff_jax.data.sources.base import BadData
from onediff_jax.data.sources.images import ImageReader, on_white, to_8_bit

READER = ImageReader()


def reason(data: bytes, reader: ImageReader = READER) -> str:
    with pytest.raises(BadData) as error:
        reader.decode(data)
    return error.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG", "PPM"])
def test_every_kind_is_read(files, kind):
    image = files.photo()
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    decoded = READER.decode(files.encode(image, kind, **options))
    assert decoded.dtype == np.uint8 and decoded.shape == image.shape
    # JPEG loses a little, GIF has 256 colours.
    assert np.abs(decoded.astype(int) - image).mean() < (6 if kind in ("JPEG", "GIF") else 0.01)


def test_rgba_is_composited_on_white(files):
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:8, :, 3] = 255
    rgba[8:12, :, 3] = 128
    decoded = READER.decode(files.encode(rgba))
    assert decoded[0, 0].tolist() == [200, 0, 0]
    assert decoded[10, 0].tolist() == [227, 127, 127]  # 200·128/255 + 255·127/255
    assert decoded[15, 0].tolist() == [255, 255, 255]


def test_on_white_keeps_opaque_pixels_exactly():
    values = np.arange(256, dtype=np.uint8)
    rgba = np.stack([values, values, values, np.full(256, 255, np.uint8)], -1)[None]
    assert (on_white(rgba)[0, :, 0] == values).all()


def test_palette_with_and_without_transparency(files):
    image = Image.fromarray(files.photo()).quantize(8)
    expected = np.asarray(image.convert("RGB"))
    assert (READER.decode(files.encode(image)) == expected).all()
    index = int(np.asarray(image)[0, 0])
    clear = READER.decode(files.encode(image, transparency=index))
    hidden = np.asarray(image) == index
    assert (clear[hidden] == 255).all() and (clear[~hidden] == expected[~hidden]).all()


def test_transparent_colour_of_an_rgb_png(files):
    image = np.full((16, 16, 3), (10, 20, 30), np.uint8)
    image[:4] = (1, 2, 3)
    decoded = READER.decode(files.encode(image, transparency=(1, 2, 3)))
    assert (decoded[:4] == 255).all() and decoded[5, 0].tolist() == [10, 20, 30]


def test_grey_grey_alpha_and_one_bit(files):
    grey = files.photo()[..., 0]
    assert (READER.decode(files.encode(grey)) == grey[..., None]).all()
    faded = Image.merge("LA", [Image.fromarray(grey), Image.new("L", grey.shape[::-1], 0)])
    assert (READER.decode(files.encode(faded)) == 255).all()
    bits = Image.fromarray(grey).convert("1")
    assert set(np.unique(READER.decode(files.encode(bits)))) == {0, 255}


def test_16_bit_grey_keeps_its_range(files):
    values = np.linspace(0, 65535, 24 * 32).astype(np.uint16).reshape(24, 32)
    decoded = READER.decode(files.encode(values))
    assert (decoded[..., 0] == to_8_bit(values)).all()
    assert decoded.min() == 0 and decoded.max() == 255
    assert to_8_bit(np.array([257 * 100], np.uint16))[0] == 100


@pytest.mark.parametrize("most, read", [(0, True), (1, False), (9000, False), (40_000, True)])
def test_16_bit_measurements_are_no_picture(files, most, read):
    values = np.linspace(0, most, 24 * 32).astype(np.uint16).reshape(24, 32)
    wide = Image.fromarray(values.astype(np.int32))  # as some programs write them
    for data in (files.encode(values), files.encode(values, "TIFF"), files.encode(wide, "TIFF")):
        if read:
            assert (READER.decode(data)[..., 0] == to_8_bit(values)).all()
        else:
            assert reason(data) == "unknown_pixels"
            assert READER.values(data)[0].max() == most


@pytest.mark.parametrize("most, read", [(9000, False), (40_000, True)])
def test_16_bits_of_several_channels(most, read):
    values = np.linspace(0, most, 24 * 32 * 3).astype(np.uint16).reshape(24, 32, 3)
    data = cv2.imencode(".png", values[..., ::-1])[1].tobytes()
    if read:
        assert (READER.decode(data) == values >> 8).all()  # the upper bits, as Pillow has them
    else:
        assert reason(data) == "unknown_pixels"
    grey = np.full((24, 32, 3), 7, np.uint8)  # eight bits may be as dark as they are
    assert (READER.decode(cv2.imencode(".png", grey)[1].tobytes()) == 7).all()


def test_cmyk_jpeg(files):
    image = Image.fromarray(files.photo())
    decoded = READER.decode(files.encode(image.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - np.asarray(image)).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(files, orientation):
    upright = files.photo()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = files.encode(np.ascontiguousarray(stored), "PNG", exif=exif.tobytes())
    assert (READER.decode(data) == upright).all()


def test_content_decides_not_the_extension(files):
    image = files.photo()
    path = files.write("picture.jpg", files.encode(image, "PNG"))
    assert (READER.read(path) == image).all()


def test_animation_gives_its_first_frame(files):
    first, second = (Image.fromarray(files.photo(seed)).quantize(16) for seed in (1, 2))
    data = files.encode(first, "GIF", save_all=True, append_images=[second])
    assert (READER.decode(data) == np.asarray(first.convert("RGB"))).all()


def test_decode_side_shrinks_only_as_far_as_allowed(files):
    image = files.photo(height=400, width=600)
    data = files.encode(image, "JPEG", quality=95)
    assert READER.decode(data).shape == (400, 600, 3)
    small = ImageReader(decode_side=90).decode(data)
    assert small.shape == (100, 150, 3)
    expected = np.asarray(Image.fromarray(image).resize((150, 100), Image.Resampling.BOX))
    assert np.abs(small.astype(int) - expected).mean() < 2
    png = files.encode(image, "PNG")
    assert ImageReader(decode_side=90).decode(png).shape == (400, 600, 3)


def test_empty_and_foreign_bytes(files):
    assert reason(b"") == "empty_file"
    assert reason(b"<html>404 not found</html>") == "not_a_picture"
    assert reason("caption ñ".encode()) == "not_a_picture"
    with pytest.raises(BadData, match="missing_file"):
        READER.read(files.path("nothing.png"))
    files.write("empty.png", b"")
    with pytest.raises(BadData, match="empty_file"):
        READER.read(files.path("empty.png"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_pictures(files, kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = files.encode(noise, kind)
    assert reason(data[: int(share * len(data))]) == "broken_picture"


def test_flipped_bytes_never_raise_anything_else(files):
    rng = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        data = np.frombuffer(files.encode(files.photo(), kind), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[rng.integers(len(data), size=3)] = rng.integers(256, size=3)
            try:
                image = READER.decode(damaged.tobytes())
            except BadData:
                continue
            assert image.dtype == np.uint8 and image.shape[2] == 3


def test_decompression_bombs_are_not_decoded(files):
    def png_header(width, height):
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunks = b""
        for name, body in ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000))):
            check = struct.pack(">I", zlib.crc32(name + body))
            chunks += struct.pack(">I", len(body)) + name + body + check
        return b"\x89PNG\r\n\x1a\n" + chunks

    assert reason(png_header(9_000, 9_000)) == "too_large"  # above our limit, below Pillow's
    assert reason(png_header(12_000, 12_000)) == "too_large"  # where Pillow warns
    assert reason(png_header(60_000, 60_000)) == "too_large"  # where Pillow refuses
    assert reason(files.encode(files.photo()), ImageReader(max_pixels=100)) == "too_large"


def test_tiny_and_unknown_pixels(files):
    assert reason(files.encode(files.photo(height=8))) == "too_small"
    assert READER.decode(files.encode(files.photo(height=16))).shape[0] == 16
    floats = Image.fromarray(np.linspace(-1, 5, 400, dtype=np.float32).reshape(20, 20))
    assert reason(files.encode(floats, "TIFF")) == "unknown_pixels"
    wide = Image.fromarray(np.full((20, 20), 1 << 20, np.int32))
    assert reason(files.encode(wide, "TIFF")) == "unknown_pixels"


def test_values_are_kept_as_stored(files):
    grey = files.photo()[..., 0]
    values, palette = READER.values(files.encode(grey))
    assert (values == grey).all() and palette is None
    deep = grey.astype(np.uint16) * 250
    assert (READER.values(files.encode(deep))[0] == deep).all()
    indexed = Image.fromarray(grey % 3)
    indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    values, palette = READER.values(files.encode(indexed))
    assert (values == grey % 3).all() and palette[1].tolist() == [0, 255, 0]
    buffer = io.BytesIO()
    np.save(buffer, grey.astype(np.float32))
    assert READER.values(buffer.getvalue())[0].dtype == np.float32
    with pytest.raises(BadData, match="broken_picture"):
        READER.values(buffer.getvalue()[:200])
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}]), allow_pickle=True)
    with pytest.raises(BadData, match="broken_picture"):
        READER.values(buffer.getvalue())  # never unpickled


def test_limits_are_checked():
    with pytest.raises(ValueError, match="max_pixels"):
        ImageReader(max_pixels=10**9)
    with pytest.raises(ValueError, match="side"):
        ImageReader(min_side=0)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("place", [33, -12])  # after the header, before the end
def test_long_notes_in_a_png_are_not_its_pixels(files, place):
    plain = files.encode(files.photo())
    long = zlib.compress(b"x" * 2_000_000)
    for kind, data in (
        (b"zTXt", b"workflow\0\0" + long),
        (b"iTXt", b"workflow\0\1\0\0\0" + long),
        (b"iCCP", b"icc\0\0" + long),
    ):
        data = plain[:place] + chunk(kind, data) + plain[place:]
        assert (READER.decode(data) == files.photo()).all()


def test_a_numpy_file_is_no_larger_than_it_says(files):
    def header(shape, descr="'<f4'"):
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text

    for shape, why in (
        ("(1000000, 1000000)", "too_large"),
        ("(1000000000000,)", "too_large"),
        ("(64, 64)", "broken_picture"),
        ("(-64, 64)", "too_small"),
        ("(64, 'x')", "broken_picture"),
    ):
        with pytest.raises(BadData, match=why):
            READER.values(header(shape) + bytes(64))
    fortran = io.BytesIO()
    np.save(fortran, np.asfortranarray(np.arange(512.0).reshape(16, 32)))
    assert (READER.values(fortran.getvalue())[0] == np.arange(512.0).reshape(16, 32)).all()


def test_one_bit_maps_hold_0_and_1(files):
    """What Image.fromarray of a bool array saves is a class map like any other."""
    mask = np.zeros((16, 16), bool)
    mask[4:] = True
    values, palette = ImageReader().values(files.encode(Image.fromarray(mask)))
    assert palette is None and values.dtype == np.uint8
    np.testing.assert_array_equal(values, mask)
