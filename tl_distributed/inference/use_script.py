"""The script that comes with an export: five lines that use it, without this package."""

from tl_distributed.data.fit_rules import FIT_OF_VERSION_1
from tl_distributed.inference.model_info import ModelInfo
from tl_distributed.reporting.label_scores import THRESHOLD

# Of Pillow: what becomes of a picture that is not square, with the resizing that follows.
_FITTED = {
    "squash": "{image}.resize({size}, Image.Resampling.BILINEAR)",
    "crop": "ImageOps.fit({image}, {size}, Image.Resampling.BILINEAR)",
    "pad": "ImageOps.pad({image}, {size}, Image.Resampling.BILINEAR)",
}
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

    It lies where `companions.script_path` says, and prepares a picture of 8 bits a sample as the model's fitting rule
    wants it, with Pillow: upright, what is transparent on white, within the rounding of its resizing as `predict` does
    (of a crop but for the outermost pixels, into which `ImageOps.fit` blurs what lies beyond).

    Args:
      kind: Of the export.
      info: Stored with it.
      num_classes: Of its outputs.
    """
    packages, imports, names, probabilities = _KINDS[kind]
    height, width, _ = info.image_shape
    picture = 'ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGBA")'
    on_white = 'Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")'
    fitted = _FITTED[info.fit or FIT_OF_VERSION_1].format(image=on_white, size=(width, height))
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
        f"picture = {picture}\n"
        f"pixels = np.asarray({fitted})[None]  # [1, {height}, {width}, 3] uint8\n"
        f"probabilities = {probabilities}\n"
        f"{answer}"
    )
