"""Picture files as uint8 RGB arrays, whatever their kind, and bad ones by their reason.

Content decides, never the extension: a PNG called photo.jpg is read, a web page called photo.jpg
is "not_a_picture".
"""

import dataclasses
import io
import math
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from onediff_jax.data.sources import files
from onediff_jax.data.sources.base import BadData

SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".jif", ".png", ".apng", ".webp", ".bmp", ".dib"),
    *(".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# Text and colour profiles of a PNG: Pillow refuses the picture where they unpack to over 1 MiB.
_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_PNG = b"\x89PNG\r\n\x1a\n"
Image.init()  # loads the decoders, so that the next line sees which ones this Pillow has
# The kinds that may be opened. Others (EPS, PSD, …) run larger, older code on untrusted bytes.
_KINDS = tuple(
    kind
    for kind in ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
    if kind in Image.OPEN
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"P5", b"P6")
_ORIENTATION = 0x0112  # EXIF tag
_SAMPLE_BITS = 0x0102  # TIFF tag
# 16-bit values that all lie below this are measurements (millimetres up to 16 m, class numbers, 12
# bits of a sensor) and no brightness: as a picture they would be black, or nearly.
_DARKEST_PICTURE = 2**14
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class ImageReader:
    """Decodes pictures.

    Attributes:
      max_pixels: more than this is "too_large", known from the header before anything is decoded.
      min_side: pixels; a smaller side below it is "too_small".
      decode_side: let JPEG decode at 1/2, 1/4 or 1/8 of its size as long as the smaller side keeps
        this many pixels: several times faster for photos that are shrunk anyway. None: full size.

    Raises:
      ValueError: a limit that is not positive, or above what Pillow itself allows.
    """

    max_pixels: int = 80_000_000
    min_side: int = 16
    decode_side: int | None = None

    def __post_init__(self):
        limit = Image.MAX_IMAGE_PIXELS
        if self.max_pixels < 1 or (limit is not None and self.max_pixels > limit):
            raise ValueError(f"max_pixels={self.max_pixels} must be in 1..{limit} (Pillow's limit)")
        if self.min_side < 1 or (self.decode_side is not None and self.decode_side < 1):
            raise ValueError(f"{self} has a side below 1")

    def describe(self) -> dict[str, Any]:
        """The options, as JSON values."""
        return dataclasses.asdict(self)

    def decode(self, data: bytes, *, upright: bool = True) -> np.ndarray:
        """(H, W, 3) uint8: on white where transparent, 16 bits as 8.

        Args:
          upright: turned as EXIF says; False: the pixels as they are stored.

        Of several frames (GIF, TIFF) the first one counts; colour profiles are not applied.

        Raises:
          BadData: with the reason.
        """
        image, orientation = self._load(data)
        array = to_rgb(image)
        if _has_16_bits(image, data) and array.max() < _DARKEST_PICTURE >> 8:
            # Of several channels Pillow keeps the upper 8 bits alone.
            raise _measurements(f"values up to about {array.max() << 8}")
        if upright and orientation in _TURNS:
            array = np.asarray(Image.fromarray(array).transpose(_TURNS[orientation]))
        return np.ascontiguousarray(array)

    def read(self, path: str) -> np.ndarray:
        """`decode` of a file."""
        return self.decode(files.read_bytes(path))

    def values(self, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
        """A map of numbers, exactly as stored: class indices, or depth.

        Returns:
          (H, W) of its own integer or float type (palette pictures: the indices), or (H, W, 3)
          uint8; and the (N, 3) palette, if it has one.

        Raises:
          BadData: with the reason.
        """
        if data.startswith(b"\x93NUMPY"):
            return self._npy(data), None
        full = dataclasses.replace(self, decode_side=None)
        image, orientation = full._load(data)
        if orientation in _TURNS:
            image = image.transpose(_TURNS[orientation])
        palette = None
        if image.mode == "P":
            palette = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        elif image.mode == "1":
            return np.array(image).astype(np.uint8), None
        elif not (image.mode in ("L", "I", "F") or image.mode.startswith("I;16")):
            return to_rgb(image), None
        return np.array(image), palette

    def _npy(self, data: bytes) -> np.ndarray:
        file = io.BytesIO(data)
        try:
            version = np.lib.format.read_magic(file)
            if version not in _NPY_HEADERS:
                raise ValueError(f"version {version}")
            shape, fortran, dtype = _NPY_HEADERS[version](file)
            if dtype.hasobject:
                raise ValueError("pickled objects are not read")
        except (ValueError, OSError, EOFError, SyntaxError, TypeError) as error:
            raise BadData("broken_picture", f"NumPy file: {error}") from None
        sides = [side for side in shape if side != 1]
        if len(sides) > 2 or dtype.kind not in "iuf":
            raise BadData("unknown_pixels", f"NumPy file of {dtype} {shape}")
        sides = [1] * (2 - len(sides)) + sides
        # Before anything is allocated: the header may say any number.
        self._check_size(*sides[::-1])
        if len(data) - file.tell() < math.prod(sides) * dtype.itemsize:
            raise BadData("broken_picture", f"NumPy file: ends before its {shape} values")
        values = np.frombuffer(data, dtype, math.prod(sides), file.tell())
        return values.reshape(sides, order="F" if fortran else "C")

    def _load(self, data: bytes) -> tuple[Image.Image, int]:
        """The decoded picture and its EXIF orientation."""
        if not data:
            raise BadData("empty_file")
        try:
            image = Image.open(io.BytesIO(_without_notes(data)), formats=_KINDS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise BadData("too_large", str(error)) from None
        except Exception as error:  # decoders raise nearly anything on hostile bytes
            inner = (b"WEBP", b"avif", b"avis")  # these kinds name themselves at byte 8
            known = data.startswith(_SIGNATURES) or data[8:12] in inner
            raise BadData(
                "broken_picture" if known else "not_a_picture",
                str(error) if known else f"starts with {data[:8]!r}",
            ) from None
        self._check_size(*image.size)
        try:
            if self.decode_side is not None and image.format == "JPEG":
                # The draft keeps both sides at or above what is asked for.
                scale = self.decode_side / min(image.size)
                width, height = (max(1, int(np.ceil(side * scale))) for side in image.size)
                image.draft(None, (width, height))
            image.load()
        except Exception as error:
            raise BadData("broken_picture", f"{type(error).__name__}: {error}") from None
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
        except Exception:  # broken metadata says nothing about the pixels, which are fine
            orientation = 1
        return image, orientation

    def _check_size(self, width: int, height: int):
        if width * height > self.max_pixels:
            raise BadData("too_large", f"{width}x{height}, allowed {self.max_pixels} pixels")
        if min(width, height) < self.min_side:
            raise BadData("too_small", f"{width}x{height}, allowed {self.min_side} or more")


def to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of a decoded Pillow image of any mode, transparent parts on white.

    Raises:
      BadData: "unknown_pixels" for 32-bit and float pixels, whose range nothing tells, and for
        16-bit ones that are no brightness.
    """
    mode = image.mode
    if mode.startswith("I;16"):
        return _grey(np.array(image))
    if mode in ("I", "F"):
        values = np.array(image)
        # Some 16-bit files arrive as 32-bit integers.
        if mode == "F" or values.min() < 0 or values.max() > 65535:
            raise BadData("unknown_pixels", f"mode {mode}, {values.min()}..{values.max()}")
        return _grey(values)
    if "transparency" in image.info or mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return on_white(np.asarray(image.convert("RGBA")))
    try:
        return np.array(image if mode == "RGB" else image.convert("RGB"))
    except ValueError as error:  # LAB, for one, which Pillow opens but does not convert
        raise BadData("unknown_pixels", str(error)) from None


def to_8_bit(values: np.ndarray) -> np.ndarray:
    """16-bit values 0..65535 as uint8, rounded (65535 = 257 * 255)."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8, alpha not premultiplied, as (H, W, 3) over white."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _without_notes(data: bytes) -> bytes:
    """A PNG without its text and colour profile, which say nothing of the pixels; others as is."""
    if not data.startswith(_PNG) or not any(kind in data for kind in _NOTES):
        return data
    kept, start = [_PNG], len(_PNG)
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] not in _NOTES:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def is_picture_name(name: str) -> bool:
    """Whether the extension promises a picture."""
    return name.lower().endswith(SUFFIXES)


def _grey(values: np.ndarray) -> np.ndarray:
    """16-bit grey as (H, W, 3) uint8; raises BadData for measurements."""
    if 0 < values.max() < _DARKEST_PICTURE:
        raise _measurements(f"values of {values.min()}…{values.max()}")
    return np.repeat(to_8_bit(values)[..., None], 3, -1)


def _measurements(what: str) -> BadData:
    return BadData(
        "unknown_pixels",
        f"16-bit {what} are measurements such as millimetres or class numbers, and would be black "
        "as a picture. Depth is read by a task or direction that is given depth (depth2image), "
        "class numbers by one that is given a class map, with its class list; a picture has to be "
        "saved with the whole range",
    )


def _has_16_bits(image: Image.Image, data: bytes) -> bool:
    """Whether a picture of several channels was stored with 16 bits per channel."""
    if image.mode.startswith("I"):
        return False  # one channel, which has been looked at
    if image.format == "PNG":
        return data[24] == 16
    return isinstance(image, TiffImageFile) and 16 in image.tag_v2.get(_SAMPLE_BITS, ())
