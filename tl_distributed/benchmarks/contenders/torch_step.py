"""PyTorch: the same network from `timm`, channels last, with or without `torch.compile`. No TensorFlow here."""

import importlib.abc
import importlib.machinery
import sys
import time
import types
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tl_distributed.benchmarks.not_measured import NotMeasured
from tl_distributed.benchmarks.random_images import NUM_CLASSES, random_images

_TIMM_NAMES = {
    "mobilenet_v2": "mobilenetv2_100",
    "convnext_tiny": "convnext_tiny",
    "convnext_small": "convnext_small",
    "convnext_base": "convnext_base",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "densenet121": "densenet121",
    "efficientnet_b0": "tf_efficientnet_b0",  # with TensorFlow's padding
    "vgg16": "vgg16",
}
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PADDING, _DROPOUT, _RATE, _WEIGHT_DECAY = 4, 0.2, 1e-4, 1e-4
_DTYPES = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}


def start(settings: dict[str, Any]) -> Any:
    """Builds the model.

    Args:
      settings: As of `keras_step`, with `compile` in place of `jit_compile`, and `threads`.

    Raises:
      NotMeasured: timm has no counterpart of the backbone that is known here.
    """
    if settings["backbone"] not in _TIMM_NAMES:
        raise NotMeasured(f"no timm counterpart of {settings['backbone']} is known here")
    torch.manual_seed(0)
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(settings["threads"])
    device = torch.device("cuda" if on_gpu else "cpu")
    precision = settings["precision"]
    if precision == "auto":
        precision = "mixed_bfloat16" if on_gpu else "float32"
    if on_gpu:
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, as TensorFlow's default
    model = _model(settings["backbone"]).to(device, memory_format=torch.channels_last)
    images, labels = random_images(settings["images"], settings["native_size"])
    contender = _Steps(model, images, labels, settings, device, _DTYPES.get(precision))
    contender.facts = {
        "device": torch.cuda.get_device_name() if on_gpu else "CPU",
        "replicas": 1,
        "compiled": settings["compile"],
        "precision": precision,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes_to_device_per_image": images[0].nbytes + 8,  # labels are int64 here
        "versions": {"torch": torch.__version__, "timm": _timm().__version__},
    }
    return contender


def _model(backbone: str) -> nn.Module:
    timm = _timm()
    if backbone == "vgg16":  # without the wide layers of its top, as in our table
        features = timm.create_model("vgg16").features
        top = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(_DROPOUT), nn.Linear(512, NUM_CLASSES)]
        return nn.Sequential(features, *top)
    model = timm.create_model(_TIMM_NAMES[backbone], num_classes=NUM_CLASSES, drop_rate=_DROPOUT)
    if backbone in ("resnet50", "resnet101"):
        for module in model.modules():  # Keras's strides: in the 1x1, not the 3x3 convolution (6 % fewer operations)
            if type(module).__name__ == "Bottleneck" and module.conv2.stride == (2, 2):
                module.conv1.stride, module.conv2.stride = (2, 2), (1, 1)
    return model


def _timm() -> Any:
    """Imports timm; where torchvision cannot be had, with an empty stand-in for it.

    timm's networks do not use torchvision, but importing timm imports its image transforms, which do. There is no
    torchvision for every build of PyTorch, and one made for another build fails to load.
    """
    if "timm" not in sys.modules:
        try:
            import torchvision  # noqa: F401
        except (ImportError, RuntimeError, OSError):
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            sys.meta_path.insert(0, _StandIns())
    import timm

    return timm


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of torchvision: an empty one, whose every name is an empty class."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        is_wanted = name.split(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_wanted else None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = _empty_class
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _AnyName(type):
    def __getattr__(cls, name: str) -> Any:
        return _empty_class(name)


def _empty_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _AnyName(name, (), {})


class _Batches(torch.utils.data.Dataset):
    """Hands out whole batches, one gather each."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self._images, self._labels = torch.from_numpy(images), torch.from_numpy(labels).long()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._images[indices], self._labels[indices]


class _Steps:
    def __init__(self, model: nn.Module, images: Any, labels: Any, settings: dict[str, Any], device: Any, dtype: Any):
        self._settings, self._device, self._dtype = settings, device, dtype
        self._batch_size, self._training = settings["global_batch_size"], settings["mode"] == "train"
        self._model = model.train(self._training)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY, fused=True)
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._loader = torch.utils.data.DataLoader(
            _Batches(images, labels), batch_size=self._batch_size, shuffle=True, drop_last=True,
            collate_fn=lambda batch: batch, pin_memory=device.type == "cuda",
        )  # fmt: skip
        self._batches = self._endless()
        self._forward_pass = torch.compile(self._forward) if settings["compile"] else self._forward
        self._loss, self._hits = (torch.zeros((), device=device) for _ in range(2))

    def _endless(self) -> Any:
        while True:
            yield from self._loader

    def _forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the mean loss and the number of right answers."""
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            logits = self._model(_prepared(images, self._settings["image_size"])).float()
        return functional.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()

    def _step(self) -> None:
        images, labels = (part.to(self._device, non_blocking=True) for part in next(self._batches))
        images = images.permute(0, 3, 1, 2)
        if not self._training:
            with torch.inference_mode():
                loss, hits = self._forward_pass(images, labels)
        else:
            if self._settings["augment"] == "basic":
                images = _augmented(images)
            loss, hits = self._forward_pass(images, labels)
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
        self._loss += loss.detach()
        self._hits += hits

    def warm_up(self) -> None:
        self.block(3)

    def block(self, amount: float) -> dict[str, float]:
        """Runs so many steps."""
        start = time.perf_counter()
        for _ in range(int(amount)):
            self._step()
        self._loss.item()  # waits
        return {"seconds": time.perf_counter() - start, "done": int(amount) * self._batch_size}


def _prepared(images: torch.Tensor, size: int) -> torch.Tensor:
    x = images.float()
    if images.shape[2] != size:
        x = functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
    mean, deviation = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) * 255 for v in (_MEAN, _DEVIATION))
    return ((x - mean) / deviation).contiguous(memory_format=torch.channels_last)


def _augmented(images: torch.Tensor) -> torch.Tensor:
    """Crops after padding, and mirrors half: each image in its own way, on uint8."""
    count, _, size, _ = images.shape
    padded = functional.pad(images, (_PADDING,) * 4, mode="reflect")
    ends = torch.arange(size, device=images.device)
    rows, columns = (torch.randint(0, 2 * _PADDING + 1, (count, 1), device=images.device) + ends for _ in range(2))
    columns = torch.where(torch.rand(count, 1, device=images.device) < 0.5, columns.flip(1), columns)
    numbers = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[numbers, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
