"""What of a picture's file decides its pixels: told before any decoder sees it, so that nothing else can refuse it.

Decoders trip over metadata that no pixel needs: an EXIF tag of the wrong type, a text of three megabytes, a colour
profile that does not inflate. Here a file loses all of that but the camera's orientation.
"""

import dataclasses
import re
import struct
import zlib
from collections.abc import Callable

_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF.{4}WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "AVIF": rb".{4}ftypavi[fs]",
    "BMP": rb"BM",
    "HEIC": rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mi[fa]1|msf1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "PDF": rb"%PDF-",
    "a pointer of Git LFS (git lfs pull fetches the picture)": rb"version https://git-lfs\.github\.com/",
    "HTML (a page saved in place of the picture?)": rb"(?i)\s*<(!doctype html|html)",
}
_PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in _SIGNATURES.items()}
_ORIENTATION_TAG = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_MOST_PROFILE_BYTES = 2**20  # of a compressed EXIF profile; cameras write at most 64 KiB
_EMPTY_IFD = re.compile(rb"(II\*\0\x08\0\0\0|MM\0\*\0\0\0\x08)..", re.DOTALL)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_JPEG_STANDALONE = (0x00, 0x01, *range(0xD0, 0xD9))


class UnreadableImage(ValueError):
    """The bytes are no image of the formats that are read, or are damaged; the message says how."""


@dataclasses.dataclass(frozen=True)
class PictureFile:
    """A file without what pixels do not need.

    Attributes:
      data: The file for the decoder.
      orientation: 1 to 8 as in EXIF, or None where the file does not say.
      is_held_whole: Whether its decoder holds the picture at full size even if it hands out a smaller one, as that
        of a progressive JPEG does.
      has_16_bits: Whether the header of a PNG says 16 bits a sample.
    """

    data: bytes
    orientation: int | None = None
    is_held_whole: bool = False
    has_16_bits: bool = False


def format_of(data: bytes) -> str | None:
    """Returns Pillow's name of the format, or the usual one of some that are not read; told by content."""
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(data[:64])), None)


def without_metadata(data: bytes, format_name: str) -> PictureFile:
    """Returns the file without metadata; what is damaged stays, for the decoder to refuse."""
    strip: Callable[[bytes], PictureFile] | None = {"JPEG": _strip_jpeg, "PNG": _strip_png, "AVIF": _strip_avif}.get(
        format_name
    )
    return strip(data) if strip else PictureFile(data)


def orientation_of(exif: bytes, xmp: bytes = b"") -> int | None:
    """Returns the orientation, 1 to 8, of an EXIF block or else of XMP; None where neither says it legibly."""
    orientation = _exif_orientation(exif)
    if orientation is None and (match := _XMP_ORIENTATION.search(xmp)):
        orientation = int(match[1])
    return orientation if orientation in range(1, 9) else None


def _exif_orientation(exif: bytes) -> int | None:
    """Reads this one tag, whatever the others look like; the first directory, as the EXIF standard says."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == _ORIENTATION_TAG:
                value = {1: "B", 3: "H", 4: "I"}[kind]  # BYTE, SHORT, LONG
                return struct.unpack_from(order + value, exif, entry + 8)[0]
    except (struct.error, KeyError):
        pass
    return None


def _strip_jpeg(data: bytes) -> PictureFile:
    """Keeps JFIF's and Adobe's marker, which tell the colour space, of all application data."""
    parts, exif, xmp = [data[:2]], [], b""
    is_whole, components, at = False, 0, 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF or marker in _JPEG_STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : end]
        if end > len(data) or end < at + 4 or marker == 0xD9:
            break
        if marker == 0xDA:
            is_whole |= bool(body) and body[0] < components  # a scan for each colour
            parts.append(data[at:])
            return PictureFile(b"".join(parts), orientation_of(b"".join(exif), xmp), is_whole)
        if marker in _JPEG_FRAMES and len(body) >= 6:
            is_whole, components = marker in _JPEG_PROGRESSIVE, body[5]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif.append(body[6:])  # a long one goes on in the next segment
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = xmp or body
        if _is_pixel_segment(marker, body):
            parts.append(data[at:end])
        at = end
    return PictureFile(data)


def _is_pixel_segment(marker: int, body: bytes) -> bool:
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == 0xEE:
        return body.startswith(b"Adobe") and len(body) >= 12
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _strip_png(data: bytes) -> PictureFile:
    """Keeps the critical chunks and transparency; an animated one becomes its first frame by this."""
    parts, exif, xmp, profile, at = [data[:8]], b"", b"", b"", 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or not kind.isalpha():
            break
        if kind[:1].isupper() or kind == b"tRNS":
            parts.append(data[at:end])
        elif kind == b"eXIf":
            exif = data[at + 8 : end - 4]
        elif kind == b"iTXt" and data.startswith(b"XML:com.adobe.xmp\0", at + 8):
            xmp = data[at + 8 : end - 4]
        elif kind in (b"zTXt", b"tEXt") and data.startswith(b"Raw profile type exif\0", at + 8):
            profile = _raw_profile(data[at + 30 : end - 4], is_compressed=kind == b"zTXt")
        at = end
        if kind == b"IEND":
            return PictureFile(b"".join(parts), orientation_of(exif or profile, xmp), has_16_bits=data[24] == 16)
    parts.append(data[at:])
    return PictureFile(b"".join(parts), orientation_of(exif or profile, xmp), has_16_bits=data[24:25] == b"\x10")


def _raw_profile(text: bytes, *, is_compressed: bool) -> bytes:
    """Returns the EXIF that ImageMagick writes into a PNG's text: a line feed, name, length, and hex digits."""
    try:
        if is_compressed:
            text = zlib.decompressobj().decompress(text[1:], _MOST_PROFILE_BYTES)
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (zlib.error, ValueError):
        return b""


def _strip_avif(data: bytes) -> PictureFile:
    """Empties EXIF, which an AVIF's orientation does not come from, but over which Pillow stumbles."""
    return PictureFile(_EMPTY_IFD.sub(rb"\1\0\0", data))
