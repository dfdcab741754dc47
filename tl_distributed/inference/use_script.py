"""The script that comes with an export: a few lines that use it, without this package."""

from tl_distributed.data.fit_rules import FIT_OF_VERSION_1
from tl_distributed.inference.model_info import ModelInfo
from tl_distributed.reporting.label_scores import THRESHOLD

# Of Pillow: what becomes of `picture` where it is not square, and its pixels.
_FITTED = {
    "squash": "pixels = np.asarray(picture.resize(({size}, {size}), Image.Resampling.BILINEAR))[None]",
    "crop": (
        "side = min(picture.size)\n"
        "left, top = ((length - side) // 2 for length in picture.size)\n"
        "picture = picture.crop((left, top, left + side, top + side))\n"
        "pixels = np.asarray(picture.resize(({size}, {size}), Image.Resampling.BILINEAR))[None]"
    ),
    # Where the margin is odd, its longer half comes last, as in training.
    "pad": (
        "picture = ImageOps.pad(picture, ({size}, {size}), Image.Resampling.BILINEAR, centering=(0.4999, 0.4999))\n"
        "pixels = np.asarray(picture)[None]"
    ),
}
# Grey of 16 bits keeps its upper byte, which Pillow's conversion would cut off; the tags of a TIFF are bits a sample,
# which of them is black, and the kind of number.
# Pillow misreads a path's uncompressed TIFF that is to be turned by a quarter, not that of an open file.
_OPENED = """picture = Image.open(open(sys.argv[1], "rb"))
tags = getattr(picture, "tag_v2", {})  # of a TIFF
usual = (tags.get(258, (16,)), tags.get(262, 1), tags.get(339, (1,))) == ((16,), 1, (1,))
if picture.mode[0] in "FI" and (picture.mode == "F" or not usual):
    sys.exit(f"{sys.argv[1]}: grey samples of an unusual kind ({picture.mode}); convert it to 8 bits")
picture = ImageOps.exif_transpose(picture)
if picture.mode[0] == "I":  # 16 bits
    picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
picture = picture.convert("RGBA")
picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
"""
_BESIDE = 'json.loads(open(path + ".json").read())["class_names"]'
_INSIDE_KERAS = 'json.loads(zipfile.ZipFile(path).read("metadata.json"))["tl_distributed"]["class_names"]'
# By kind: (packages of pip, imports, where the model is, its class names, its probabilities for `pixels`).
_BY_KERAS = "keras.saving.load_model(path, compile=False).predict(pixels, verbose=0)[0]"
_KINDS = {
    "keras": ("tensorflow pillow", "import zipfile\nimport keras\n", _INSIDE_KERAS, _BY_KERAS),
    "h5": ("tensorflow pillow", "import keras\n", _BESIDE, _BY_KERAS),
    "saved_model": (
        "tensorflow pillow", "import tensorflow as tf\n",
        'json.loads(open(path + "/assets.extra/tl_distributed.json").read())["class_names"]',
        "(model := tf.saved_model.load(path)).serve(pixels)[0].numpy()",  # kept, as its variables would not be
    ),
    "tflite": (
        "ai-edge-litert numpy pillow", "from ai_edge_litert.interpreter import Interpreter\n", _BESIDE,
        'Interpreter(path).get_signature_runner()(pixels=pixels)["output_0"][0]',
    ),
    "onnx": (
        "onnxruntime numpy pillow", "import onnxruntime\n", _BESIDE,
        'onnxruntime.InferenceSession(path).run(None, {"pixels": pixels})[0][0]',
    ),
}  # fmt: skip


def use_script(kind: str, info: ModelInfo, num_classes: int) -> str:
    """Returns a Python program that prints the class of a picture, or its labels, with the probability.

    It lies where `companions.script_path` says, and prepares a picture as the model's fitting rule wants it, with
    Pillow: upright, what is transparent on white, of 16 bits the upper byte, as `predict` does within the rounding of
    its resizing. Grey samples that `predict` refuses, of 12 bits, or whose zero is white, end it with a line.

    Args:
      kind: Of the export.
      info: Stored with it.
      num_classes: Of its outputs.
    """
    packages, imports, names, probabilities = _KINDS[kind]
    size = info.image_shape[0]
    fitted = _FITTED[info.fit or FIT_OF_VERSION_1].format(size=size)
    path = 'os.path.dirname(os.path.dirname(os.path.abspath(__file__)))' if kind == "saved_model" else (
        '__file__.removesuffix(".py")'
    )  # fmt: skip
    os_import = "import os\n" if kind == "saved_model" else ""
    known = names if info.class_names else f"list(range({num_classes}))"
    answer = f"print({known}[probabilities.argmax()], probabilities.max())\n"
    if info.activation == "sigmoid":  # any number of labels
        answer = f"print([name for name, one in zip({known}, probabilities) if one > {THRESHOLD}], probabilities)\n"
    return (
        f"# Says what is on a picture: python THIS_FILE photo.jpg   (pip install {packages})\n"
        f"import json\n{os_import}import sys\n{imports}import numpy as np\nfrom PIL import Image, ImageOps\n\n"
        f"path = {path}  # of the model\n"
        f"{_OPENED}"
        f"{fitted}  # [1, {size}, {size}, 3] uint8\n"
        f"probabilities = {probabilities}\n"
        f"{answer}"
    )
