"""Under which licence the weights are that a model began with, as far as their makers say."""

from tl_distributed.models.backbones import BACKBONES
from tl_distributed.models.hub_files import is_hub, name_of, preset_licence

# By family. The older ones: "License" on https://keras.io/api/applications/ of before 2021; the others: the repository
# that published the weights which Keras converted. Where neither names one, nothing is claimed.
_APACHE = "Apache-2.0"
_OF_FAMILY = {
    "vgg16": "CC-BY-4.0 (Visual Geometry Group, Oxford)", "vgg19": "CC-BY-4.0 (Visual Geometry Group, Oxford)",
    "resnet": "MIT (Kaiming He)", "inception_v3": _APACHE, "inception_resnet_v2": _APACHE, "xception": "MIT",
    "mobilenet": _APACHE, "mobilenet_v2": _APACHE, "mobilenet_v3": f"{_APACHE} (tensorflow/models)",
    "densenet": "BSD-3-Clause", "nasnet": _APACHE, "efficientnet": f"{_APACHE} (tensorflow/tpu)",
    "efficientnet_v2": f"{_APACHE} (google/automl)", "convnext": "MIT (facebookresearch/ConvNeXt)",
}  # fmt: skip


def weights_licence(backbone: str, weights: str) -> str:
    """Returns what is known of the licence of the weights that a run began with, in a sentence or two.

    Args:
      backbone: `--backbone` of the run.
      weights: Its `--weights`: none, own, imagenet or a path.
    """
    if weights == "none":
        return "Trained from random weights: no one else's are in it."
    if is_hub(backbone) and weights == "own":
        return f"It began with the weights of KerasHub's preset {name_of(backbone)}. Their licence: " + (
            f"{preset_licence(backbone)}."
        )
    if weights != "imagenet":
        return (
            f"It began with {'the weights of ' + backbone if weights == 'own' else weights}, whose licence is not "
            "known here; ask who made them."
        )
    family = BACKBONES[backbone].family if backbone in BACKBONES else ""
    named = _OF_FAMILY.get(family)
    said = f"{named}, as their maker says" if named else "which licence is not named by their maker"
    return (
        f"It began with Keras's ImageNet weights of {backbone}: {said}. They were learnt from ImageNet's pictures, "
        "which image-net.org gives out for non-commercial research and education."
    )
