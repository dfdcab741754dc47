"""Which programs turn a picture's bytes into pixels: two versions of one may differ in the last bit of some."""

import importlib.metadata

from PIL import features

_LIBRARIES = ("libjpeg_turbo", "jpg", "webp", "avif", "libtiff")  # PNG, BMP and GIF hold pixels without loss


def decoder_versions() -> dict[str, str]:
    """Returns the versions of Pillow, and of the libraries by which it decodes formats that lose something."""
    found = {name: features.version(name) for name in _LIBRARIES}
    return {"pillow": importlib.metadata.version("pillow"), **{name: text for name, text in found.items() if text}}


def decoder_line(recorded: dict[str, str]) -> str:
    """Returns what is said of the decoder of a data set: its versions, and where this machine's are others."""
    own = decoder_versions()
    said = f"Decoded by {', '.join(f'{name} {version}' for name, version in recorded.items())}"
    other = [f"{name} {own.get(name, 'none')}" for name, version in recorded.items() if own.get(name) != version]
    if not other:
        return f"{said}, as here."
    return f"{said}; here {', '.join(other)}: the same images built here may differ in some pixels."
