"""Which decoder wrote a data set, and whether it is this machine's."""

import PIL

from tl_distributed.data.decoder import decoder_line, decoder_versions


def test_versions_are_those_of_pillow_and_its_jpeg():
    versions = decoder_versions()
    assert versions["pillow"] == PIL.__version__ and {"libjpeg_turbo", "jpg"} & versions.keys()
    assert all(isinstance(version, str) and version for version in versions.values())


def test_another_version_is_said():
    own = decoder_versions()
    assert decoder_line(own) == f"Decoded by {', '.join(f'{name} {text}' for name, text in own.items())}, as here."
    assert decoder_line({"pillow": "1.0", "gone": "2"}) == (
        f"Decoded by pillow 1.0, gone 2; here pillow {PIL.__version__}, gone none: the same images built here may "
        "differ in some pixels."
    )
