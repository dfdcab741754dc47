"""The table of backbones: every image backbone of `keras.applications`, and two small nets of our own.

Importing this module imports no TensorFlow, so that a mistyped `--backbone` is refused at once.
"""

import dataclasses
import difflib

from tl_distributed.errors import UserError
from tl_distributed.models.hub_files import is_hub, preset_image_size
from tl_distributed.models.plugins import function_of, is_own

NORMALIZATIONS = ("tf", "torch", "caffe", "internal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """One row of the table. A backbone of one's own needs a name and a normalisation; the rest is derived.

    Attributes:
      name: What `--backbone` takes.
      family: Module of `keras.applications` that holds its `preprocess_input`; empty for nets of our own.
      constructor: Name in `keras.applications`; empty for nets of our own.
      default_size: Image side in pixels that its ImageNet weights were trained for; 0: that of the data set's images.
      minimum_size: Smallest image side in pixels that it can be built for.
      normalization: What it expects of an image: "tf" [-1, 1]; "torch" ImageNet mean 0 and deviation 1, RGB;
        "caffe" ImageNet mean subtracted from [0, 255], BGR; "internal" plain [0, 255], it normalises itself.
      gmacs: Billions of multiply-accumulates for one image of `default_size`, without a head; `None`: not known
        before it is built.
      has_imagenet_weights: Whether `--weights=imagenet` can be had.
      feature_layers: Names of the outputs of its stages, from fine to coarse: strides 4, 8, 16, 32 where the
        family has them all; empty: not known before it is built.
      pretrained: Whether the weights that its function returns are worth keeping (`--weights=own`).
    """

    name: str
    family: str = ""
    constructor: str = ""
    default_size: int = 0
    minimum_size: int = 1
    normalization: str
    gmacs: float | None = None
    has_imagenet_weights: bool = False
    feature_layers: tuple[str, ...] = ()
    pretrained: bool = False


def _family(
    family: str, normalization: str, minimum_size: int, *members: tuple[str, str, int, float, str], weights: bool = True
) -> list[Backbone]:
    """Rows of one family; a member is (name, constructor, default size, GMACs, feature layers)."""
    return [
        Backbone(
            name=name, family=family, constructor=constructor, default_size=default_size, minimum_size=minimum_size,
            normalization=normalization, gmacs=gmacs, has_imagenet_weights=weights,
            feature_layers=tuple(features.split()),
        )
        for name, constructor, default_size, gmacs, features in members
    ]  # fmt: skip


_RESNET = "conv2_block3_out conv3_block{}_out conv4_block{}_out conv5_block3_out"
# A v2 stage ends in the pre-activation of the block that halves the size.
_RESNET_V2 = "conv2_block3_preact_relu conv3_block{0}_preact_relu conv4_block{1}_preact_relu post_relu"
_DENSENET = "pool2_relu pool3_relu pool4_relu relu"
_NASNET = "reduction_concat_stem_1 normal_concat_{} normal_concat_{} normal_concat_{}"
_EFFICIENTNET = "block3a_expand_activation block4a_expand_activation block6a_expand_activation top_activation"
_EFFICIENTNET_V2 = "block2{}_add block4a_expand_activation block6a_expand_activation top_activation"
_CONVNEXT = "add_2 add_5 add_{} layer_normalization"

# fmt: off
_ROWS = [
    *_family("vgg16", "caffe", 32,
        ("vgg16", "VGG16", 224, 15.347, "block3_conv3 block4_conv3 block5_conv3 block5_pool")),
    *_family("vgg19", "caffe", 32,
        ("vgg19", "VGG19", 224, 19.508, "block3_conv4 block4_conv4 block5_conv4 block5_pool")),
    *_family("resnet", "caffe", 32,
        ("resnet50", "ResNet50", 224, 3.856, _RESNET.format(4, 6)),
        ("resnet101", "ResNet101", 224, 7.568, _RESNET.format(4, 23)),
        ("resnet152", "ResNet152", 224, 11.280, _RESNET.format(8, 36))),
    *_family("resnet_v2", "tf", 32,
        ("resnet50_v2", "ResNet50V2", 224, 3.480, _RESNET_V2.format(4, 6)),
        ("resnet101_v2", "ResNet101V2", 224, 7.192, _RESNET_V2.format(4, 23)),
        ("resnet152_v2", "ResNet152V2", 224, 10.905, _RESNET_V2.format(8, 36))),
    *_family("inception_v3", "tf", 75,
        ("inception_v3", "InceptionV3", 299, 5.711, "activation_4 mixed2 mixed7 mixed10")),
    *_family("inception_resnet_v2", "tf", 75,
        ("inception_resnet_v2", "InceptionResNetV2", 299, 13.154,
         "activation_4 block35_10_ac block17_20_ac conv_7b_ac")),
    *_family("xception", "tf", 71,
        ("xception", "Xception", 299, 8.355,
         "block3_sepconv1_act block4_sepconv1_act block13_sepconv1_act block14_sepconv2_act")),
    *_family("mobilenet", "tf", 32,
        ("mobilenet", "MobileNet", 224, 0.5677, "conv_pw_3_relu conv_pw_5_relu conv_pw_11_relu conv_pw_13_relu")),
    *_family("mobilenet_v2", "tf", 32,
        ("mobilenet_v2", "MobileNetV2", 224, 0.2995,
         "block_3_expand_relu block_6_expand_relu block_13_expand_relu out_relu")),
    *_family("mobilenet_v3", "internal", 32,
        ("mobilenet_v3_small", "MobileNetV3Small", 224, 0.0549, "re_lu_2 activation_1 activation_11 activation_17"),
        ("mobilenet_v3_large", "MobileNetV3Large", 224, 0.2141, "re_lu_5 activation_1 activation_13 activation_19")),
    *_family("densenet", "torch", 32,
        ("densenet121", "DenseNet121", 224, 2.833, _DENSENET),
        ("densenet169", "DenseNet169", 224, 3.358, _DENSENET),
        ("densenet201", "DenseNet201", 224, 4.289, _DENSENET)),
    *_family("nasnet", "tf", 32,
        ("nasnet_mobile", "NASNetMobile", 224, 0.5626, _NASNET.format(3, 8, 12)),
        ("nasnet_large", "NASNetLarge", 331, 23.779, _NASNET.format(5, 12, 18))),
    *_family("efficientnet", "internal", 32,
        ("efficientnet_b0", "EfficientNetB0", 224, 0.3845, _EFFICIENTNET),
        ("efficientnet_b1", "EfficientNetB1", 240, 0.6855, _EFFICIENTNET),
        ("efficientnet_b2", "EfficientNetB2", 260, 0.9922, _EFFICIENTNET),
        ("efficientnet_b3", "EfficientNetB3", 300, 1.826, _EFFICIENTNET),
        ("efficientnet_b4", "EfficientNetB4", 380, 4.392, _EFFICIENTNET),
        ("efficientnet_b5", "EfficientNetB5", 456, 10.264, _EFFICIENTNET),
        ("efficientnet_b6", "EfficientNetB6", 528, 19.065, _EFFICIENTNET),
        ("efficientnet_b7", "EfficientNetB7", 600, 37.743, _EFFICIENTNET)),
    *_family("efficientnet_v2", "internal", 32,
        ("efficientnet_v2_b0", "EfficientNetV2B0", 224, 0.7168, _EFFICIENTNET_V2.format("b")),
        ("efficientnet_v2_b1", "EfficientNetV2B1", 240, 1.196, _EFFICIENTNET_V2.format("c")),
        ("efficientnet_v2_b2", "EfficientNetV2B2", 260, 1.696, _EFFICIENTNET_V2.format("c")),
        ("efficientnet_v2_b3", "EfficientNetV2B3", 300, 3.010, _EFFICIENTNET_V2.format("c")),
        ("efficientnet_v2_s", "EfficientNetV2S", 384, 8.364, _EFFICIENTNET_V2.format("d")),
        ("efficientnet_v2_m", "EfficientNetV2M", 480, 24.581, _EFFICIENTNET_V2.format("e")),
        ("efficientnet_v2_l", "EfficientNetV2L", 480, 56.078, _EFFICIENTNET_V2.format("g"))),
    *_family("convnext", "internal", 32,
        ("convnext_tiny", "ConvNeXtTiny", 224, 4.455, _CONVNEXT.format(14)),
        ("convnext_small", "ConvNeXtSmall", 224, 8.683, _CONVNEXT.format(32)),
        ("convnext_base", "ConvNeXtBase", 224, 15.354, _CONVNEXT.format(32)),
        ("convnext_large", "ConvNeXtLarge", 224, 34.360, _CONVNEXT.format(32)),
        ("convnext_xlarge", "ConvNeXtXLarge", 224, 60.919, _CONVNEXT.format(32))),
    *_family("", "tf", 8,
        ("baseline_cnn", "", 32, 0.0061, "pool1 pool2"),
        ("resnet20", "", 32, 0.0408, "stage1_block3_out stage2_block3_out stage3_block3_out"), weights=False),
]
# fmt: on
BACKBONES: dict[str, Backbone] = {row.name: row for row in _ROWS}


def get_backbone(name: str) -> Backbone:
    """Returns the row of `name`; of `MODULE:FUNCTION` one that says nothing of it, but that its module was imported.

    Of `hub:PRESET` it says the size of its images.

    Raises:
      UserError: No such backbone, the nearest names are suggested; or no such function.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if is_hub(name):
        return Backbone(name=name, normalization="internal", default_size=preset_image_size(name), pretrained=True)
    if is_own(name):
        function_of("backbone", name)
        return Backbone(name=name, normalization="internal")
    nearest = difflib.get_close_matches(name.lower().replace("-", "_"), BACKBONES, n=3, cutoff=0.5)
    suggestion = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    raise UserError(f"--backbone={name}: no such backbone; {suggestion}all: {', '.join(BACKBONES)}")


def get_counted_backbone(name: str) -> Backbone:
    """Returns the row of `name`, for what goes by its multiply-accumulates.

    Raises:
      UserError: As `get_backbone`, or they are not known.
    """
    row = get_backbone(name)
    if row.gmacs is None:
        raise UserError(
            f"--backbone={name}: its multiply-accumulates are not known, by which this is counted; register it with "
            "tl_distributed.Backbone(gmacs=...), or take one of the table"
        )
    return row
