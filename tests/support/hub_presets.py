"""Tiny presets of KerasHub with random weights, in folders."""

import pathlib

SIZE = 32
FAMILIES = ("vit", "dinov2", "dinov3", "resnet", "swin", "siglip", "mobilenetv5")
BLOCKS = 2  # of the transformers


class Presets(dict):
    """What `--backbone` takes, by the family; each is saved when it is first asked for."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self._folder = folder

    def __missing__(self, family: str) -> str:
        self[family] = save_preset(family, self._folder / family)
        return self[family]


def save_preset(family: str, folder: pathlib.Path) -> str:
    """Writes a preset of a family and its image converter; returns what `--backbone` takes."""
    import keras
    import keras_hub

    keras.utils.set_random_seed(0)
    models, layers, shape = keras_hub.models, keras_hub.layers, (SIZE, SIZE, 3)
    if family == "vit":
        backbone = models.ViTBackbone(
            image_shape=shape, patch_size=8, num_layers=BLOCKS, num_heads=2, hidden_dim=16, mlp_dim=32
        )
        converter = layers.ViTImageConverter(image_size=(SIZE, SIZE), scale=1 / 127.5, offset=-1.0)
    elif family == "dinov2":
        backbone = models.DINOV2Backbone(
            patch_size=8, num_layers=BLOCKS, hidden_dim=16, num_heads=2, intermediate_dim=32, image_shape=shape,
            position_embedding_shape=(2 * SIZE, 2 * SIZE, 3), num_register_tokens=2,
        )  # fmt: skip
        converter = layers.DINOV2ImageConverter(
            image_size=(SIZE, SIZE), scale=[1 / 58.4, 1 / 57.1, 1 / 57.4], offset=[-2.1, -2.0, -1.8]
        )
    elif family == "dinov3":
        backbone = models.DINOV3Backbone(
            patch_size=8, num_layers=BLOCKS, hidden_dim=16, num_heads=2, intermediate_dim=32, image_shape=shape,
            num_register_tokens=2,
        )  # fmt: skip
        converter = layers.DINOV3ImageConverter(
            image_size=(SIZE, SIZE), scale=[1 / 58.4, 1 / 57.1, 1 / 57.4], offset=[-2.1, -2.0, -1.8]
        )
    elif family == "swin":
        backbone = models.SwinTransformerBackbone(
            image_shape=shape, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4
        )
        converter = layers.SwinTransformerImageConverter(image_size=(SIZE, SIZE), scale=1 / 255)
    elif family == "siglip":
        sizes = {"hidden_dim": 16, "num_layers": BLOCKS, "num_heads": 2, "intermediate_dim": 32}
        from keras_hub.src.models.siglip.siglip_vision_encoder import SigLIPVisionEncoder  # not exported

        vision = SigLIPVisionEncoder(patch_size=8, image_shape=shape, **sizes)
        text = models.SigLIPTextEncoder(vocabulary_size=20, embedding_dim=16, max_sequence_length=8, **sizes)
        backbone = models.SigLIPBackbone(vision, text)
        converter = layers.SigLIPImageConverter(image_size=(SIZE, SIZE), scale=1 / 127.5, offset=-1.0)
    elif family == "mobilenetv5":
        backbone = _mobilenetv5(shape)
        converter = layers.MobileNetV5ImageConverter(image_size=(SIZE, SIZE), scale=1 / 255)
    else:  # ResNet-D: three kernels in its stem, shortcuts by average pooling
        backbone = models.ResNetBackbone(
            input_conv_filters=[8, 8, 64], input_conv_kernel_sizes=[3, 3, 3], stackwise_num_filters=[64, 64],
            stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block_vd",
        )  # fmt: skip
        converter = layers.ResNetImageConverter(image_size=(SIZE, SIZE), scale=1 / 255)
    backbone.save_to_preset(str(folder))
    converter.save_to_preset(str(folder))
    return f"hub:{folder}"


def _mobilenetv5(shape: tuple[int, int, int]):
    """Returns two stages: a fused convolution, then an inverted bottleneck and attention of many queries."""
    import keras_hub

    zeros = [[0], [0, 0]]
    return keras_hub.models.MobileNetV5Backbone(
        stackwise_block_types=[["er"], ["uir", "mqa"]], stackwise_num_blocks=[1, 2],
        stackwise_num_filters=[[16], [24, 24]], stackwise_strides=[[2], [2, 1]],
        stackwise_act_layers=[["relu"], ["relu", "relu"]], stackwise_exp_ratios=[[2.0], [2.0, 0.0]],
        stackwise_se_ratios=[[0.0], [0.0, 0.0]], stackwise_dw_kernel_sizes=[[0], [3, 3]],
        stackwise_dw_start_kernel_sizes=zeros, stackwise_dw_end_kernel_sizes=zeros,
        stackwise_exp_kernel_sizes=[[3], [0, 0]], stackwise_pw_kernel_sizes=[[1], [0, 0]],
        stackwise_num_heads=[[0], [0, 2]], stackwise_key_dims=[[0], [0, 8]], stackwise_value_dims=[[0], [0, 8]],
        stackwise_kv_strides=[[0], [0, 1]], stackwise_use_cpe=[[False], [False, False]], stem_size=8, use_msfa=False,
        image_shape=shape,
    )  # fmt: skip
