"""Results of candidates as `ranking.measure` leaves them, with known numbers, in place of measuring."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

NUM_VAL = 200


def result(name: str, accuracy: float, *, seconds: float, macs: int | None = 10**9, **more: Any) -> dict[str, Any]:
    """Returns a result whose first images of validation are right."""
    right = round(accuracy * NUM_VAL)
    backbone = name.partition("@")[0].removesuffix(":random")
    return {
        "candidate": name, "backbone": backbone, "weights": "none" if name.endswith(":random") else "imagenet",
        "image_size": 96, "features": 8, "parameters": 2_000_000, "macs": macs, "seconds_per_1000_images": seconds,
        "num_images": {"train": 60, "val": NUM_VAL, "test": 200}, "logistic_val_accuracy": right / NUM_VAL,
        "logistic_test_accuracy": accuracy - 0.01, "logistic_l2": 0.01, "knn_val_accuracy": accuracy / 2,
        "knn_test_accuracy": accuracy / 2, "knn_k": 5, "logme": accuracy - 1,
        "few_shot": [{"images_per_class": 1, "accuracies": [accuracy / 4, accuracy / 2]},
                     {"images_per_class": 20, "accuracies": [accuracy]}],
        "few_shot_split": "test", "logistic_val_right": "1" * right + "0" * (NUM_VAL - right), "probe_seconds": 1.0,
        "devices": ["/device:CPU:0"], "precision": "float32", "settings": {}, **more,
    }  # fmt: skip


def measurer(accuracies: dict[str, float | str], calls: list[dict]) -> Callable[..., int]:
    """Returns a stand-in for `runner.measure_job`; a text in place of an accuracy is the line with which it fails."""

    def measure(job: str, log: pathlib.Path, while_waiting: Callable[[], None]) -> int:
        from tl_distributed.ranking.settings import RankConfig

        content = json.loads(job)
        if content["candidate"] is None:  # the sample
            return 0
        calls.append(content)
        while_waiting()
        lists = {name: tuple(value) for name, value in content["config"].items() if isinstance(value, list)}
        config, name = RankConfig(**{**content["config"], **lists}), content["candidate"]
        if isinstance(accuracies[name], str):
            log.write_text(f"12:00:00 a line before\nerror: {accuracies[name]}\n")
            return 2
        candidate = next(one for one in config.candidates() if one.name == name)
        own = result(name, accuracies[name], seconds=10 * accuracies[name], settings=content["settings"])
        path = pathlib.Path(config.folder) / candidate.folder / "result.json"
        path.write_text(json.dumps({**own, "weights": candidate.weights}))
        return 0

    return measure
