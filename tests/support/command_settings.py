"""The classes of settings of every command, as they are typed."""

import importlib

_NAMES = {
    "data_prep.build_tfrecords": ("data_prep.config", "BuildConfig"),
    "data_prep.verify_tfrecords": ("data_prep.config", "VerifyConfig"),
    "data_prep.fetch_weights": ("data_prep.fetch_weights", "FetchConfig"),
    "tl_distributed.train": ("tl_distributed.settings.config", "Config"),
    "tl_distributed.rank": ("tl_distributed.ranking.settings", "RankConfig"),
    "tl_distributed.study": ("tl_distributed.studies.plan", "StudyConfig"),
    "tl_distributed.doctor": ("tl_distributed.diagnosis.settings", "DoctorConfig"),
    "tl_distributed.evaluate": ("tl_distributed.evaluate", "EvaluateConfig"),
    "tl_distributed.predict": ("tl_distributed.predict", "PredictConfig"),
    "tl_distributed.export": ("tl_distributed.export", "ExportConfig"),
    "tl_distributed.inspect_features": ("tl_distributed.inspection.settings", "InspectConfig"),
    **{
        f"tl_distributed.benchmark {name.lower()}": ("tl_distributed.benchmarks.settings", f"{name}Config")
        for name in ("Input", "Pixels", "Step", "Frozen", "Startup", "Scaling")
    },
}
COMMANDS = tuple(_NAMES)


def settings_class(command: str) -> type:
    """Returns the dataclass that declares the command's flags."""
    module, name = _NAMES[command]
    return getattr(importlib.import_module(module), name)
