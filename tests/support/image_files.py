"""Small folders and archives of images for the tests of `data_prep`."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image


def png(seed: int, side: int = 8) -> bytes:
    """A PNG of `[side, side, 3]` random pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, side)).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(seed: int, side: int = 8) -> np.ndarray:
    """The pixels of `png(seed, side)`: `[side, side, 3] uint8`."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def class_files(counts: dict[str, int], *, first_seed: int = 0) -> dict[str, bytes]:
    """Returns `{"train/cat/0000.png": bytes, ...}` for counts by folder, e.g. `{"train/cat": 3}`; all images differ."""
    files, seed = {}, first_seed
    for folder, count in counts.items():
        for number in range(count):
            files[f"{folder}/{number:04d}.png"] = png(seed)
            seed += 1
    return files


def write_folder(root, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return str(root)


def write_tar(path, files: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> str:
    """Writes a tar, compressed as the ending of `path` says; `extra` members carry no data."""
    endings = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
    with tarfile.open(path, endings.get(path.suffix, "w")) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return str(path)


def write_zip(path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)
