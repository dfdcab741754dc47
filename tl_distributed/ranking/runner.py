"""Measures the candidates one at a time, each in a process of its own: TensorFlow keeps the memory of one it has built.

The same call goes on where it stopped: what has been measured with the same settings is kept.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tl_distributed.data.records import DatasetInfo, read_manifest
from tl_distributed.errors import UserError
from tl_distributed.files import is_remote, path_exists, read_json, to_json_values, write_file
from tl_distributed.progress import format_duration
from tl_distributed.ranking.measure import RESULT_FILE
from tl_distributed.ranking.settings import Candidate, RankConfig
from tl_distributed.reporting.shown_scores import percentage
from tl_distributed.runtime.preemption import StopRequest
from tl_distributed.runtime.workers import Workers
from tl_distributed.streams import show_line
from tl_distributed.studies.devices import NO_GPU, WHOLE
from tl_distributed.studies.processes import STOPPED, reason_of, run_in_process

_LOG = logging.getLogger(__name__)
_LOG_FILE = "log.txt"
# Settings that change nothing of what is measured.
_ELSEWHERE = {"backbones", "weights", "workdir", "bank_dir", "data_dir", "data_copy_dir", "cost", "plugin"}
MeasureJob = Callable[[str, pathlib.Path, Callable[[], None]], int]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came of the candidates.

    Attributes:
      results: Content of each `result.json`, in the order of the candidates.
      left_out: Why others have none, by their name.
    """

    results: tuple[dict[str, Any], ...]
    left_out: dict[str, str]


def measure_job(job: str, log: pathlib.Path, while_waiting: Callable[[], None]) -> int:
    """Runs a job of `job_of` in a process of its own; returns its exit code. The sample needs no GPU."""
    device = NO_GPU if json.loads(job)["candidate"] is None else WHOLE
    return run_in_process("tl_distributed.ranking.child", [job], log, while_waiting, device=device)


def measure_candidates(config: RankConfig, info: DatasetInfo, measure: MeasureJob | None = None) -> Measured:
    """Measures what has not been measured.

    Args:
      config: Validated.
      info: The data set's manifest.
      measure: `measure_job`, unless a test stands in for it.

    Raises:
      UserError: Weights at a path where nothing is, every candidate left out, or a data set that cannot be read.
      SystemExit: 128 + the signal's number, when a signal asked to stop.
    """
    results, left_out, measure = [], {}, measure or measure_job
    _refuse_missing_weights(config)
    candidates, started, done = config.candidates(), time.monotonic(), 0
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest(Workers()))
        sample = _sample_folder(config, info, measure, stop, stack)
        for place, candidate in enumerate(candidates):
            folder = f"{config.folder}/{candidate.folder}"
            result = _known_result(folder, config, candidate, info)
            if result is None:
                show_line(_title(place, candidates, time.monotonic() - started, done))
                job = job_of(config, candidate, next(sample), info)
                reason = _measure_once(folder, job, measure, stop)
                done += 1
                if reason:
                    left_out[candidate.name] = reason
                    _LOG.info("%s is left out: %s", candidate.name, reason)
                    continue
                result = read_json(f"{folder}/{RESULT_FILE}")
            results.append(result)
            _LOG.info("%s", _summary(result))
    if not results:
        name, reason = next(iter(left_out.items()))
        raise UserError(f"--backbones: none could be measured; {name}: {reason}")
    return Measured(tuple(results), left_out)


def _refuse_missing_weights(config: RankConfig) -> None:
    """Refuses paths that were mistyped, before anything is measured; a folder may lack the file of a backbone."""
    for candidate in config.candidates():
        if candidate.weights not in ("imagenet", "none", "own") and not path_exists(candidate.weights):
            raise UserError(f"{candidate.weights}: no such file or folder, for the weights of {candidate.name}")


def read_data_set(config: RankConfig) -> DatasetInfo:
    """Reads the manifest of a data set that can be ranked on.

    Raises:
      UserError: There is none, or it lacks the splits or the classes.
    """
    info = read_manifest(config.data_dir)
    if info.is_multi_label:
        raise UserError(f"--data_dir={config.data_dir}: a ranking takes pictures of one label each, these have several")
    missing = next((name for name in ("train", "val") if name not in info.splits), None)
    if missing:
        raise UserError(
            f"--data_dir={config.data_dir}: no {missing} split; a ranking learns from train and chooses by val "
            "(build the data set with --val_fraction)"
        )
    if sum(count > 0 for count in info.splits["train"].counts_per_class.values()) < 2:
        raise UserError(f"--data_dir={config.data_dir}: a ranking needs training images of two classes or more")
    return info


def job_of(config: RankConfig, candidate: Candidate | None, sample: str, info: DatasetInfo) -> str:
    """Returns what the process of a candidate is given, as JSON, or without one that of the sample."""
    settings = _settings(config, candidate, info) if candidate else {}
    content = {
        "config": dataclasses.asdict(config), "candidate": candidate and candidate.name, "sample": sample,
        "settings": settings,
    }  # fmt: skip
    return json.dumps(to_json_values(content))


def _settings(config: RankConfig, candidate: Candidate, info: DatasetInfo) -> dict[str, Any]:
    """Returns what a result depends on beside the files of weights and the code of plug-ins."""
    own = {name: value for name, value in dataclasses.asdict(config).items() if name not in _ELSEWHERE}
    return to_json_values({**own, "weights": candidate.weights, "dataset_sha256": info.digest()})


def _known_result(folder: str, config: RankConfig, candidate: Candidate, info: DatasetInfo) -> dict[str, Any] | None:
    """Returns a result of the same settings; of weights of a file, which may have changed, none."""
    result = read_json(f"{folder}/{RESULT_FILE}") if candidate.is_named else None
    return result if result and result.get("settings") == _settings(config, candidate, info) else None


def _sample_folder(
    config: RankConfig, info: DatasetInfo, measure: MeasureJob, stop: StopRequest, stack: contextlib.ExitStack
) -> Iterator[str]:
    """Yields the folder of the sample again and again; it is read when it is first asked for, in a process of its own.

    In this one TensorFlow would claim the GPUs, which the candidates need.
    """
    beside = None if is_remote(config.folder) else config.folder  # where there is room for the features, too
    if beside:
        tf.io.gfile.makedirs(beside)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sample_", dir=beside))
    if reason := _run(job_of(config, None, folder, info), measure, stop, f"{config.folder}/sample_{_LOG_FILE}"):
        raise UserError(reason)
    while True:
        yield folder


def _measure_once(folder: str, job: str, measure: MeasureJob, stop: StopRequest) -> str:
    """Measures a candidate; returns why it failed, or nothing."""
    tf.io.gfile.makedirs(folder)
    result = f"{folder}/{RESULT_FILE}"
    if path_exists(result):
        tf.io.gfile.remove(result)
    return _run(job, measure, stop, f"{folder}/{_LOG_FILE}")


def _run(job: str, measure: MeasureJob, stop: StopRequest, kept_log: str) -> str:
    """Runs a job and keeps its log; returns why it failed, or nothing.

    Raises:
      SystemExit: 128 + the signal's number, when a signal asked to stop.
    """

    def while_waiting() -> None:
        if number := stop.requested_signal():
            raise SystemExit(128 + number)

    with tempfile.TemporaryDirectory() as temporary:
        log = pathlib.Path(temporary) / _LOG_FILE  # local: the workdir may be in a bucket
        try:
            code = measure(job, log, while_waiting)
        finally:
            content = log.read_bytes() if log.exists() else b""
            write_file(kept_log, content)
    while_waiting()
    if code in STOPPED:
        raise SystemExit(code)
    return reason_of(code, content.decode(errors="replace")) if code else ""


def _title(place: int, candidates: Sequence[Candidate], seconds: float, done: int) -> str:
    left = f"; about {format_duration(seconds / done * (len(candidates) - place))} left" if done else ""
    return f"Ranking: {place + 1} of {len(candidates)}: {candidates[place].name}{left}"


def _summary(result: dict[str, Any]) -> str:
    return (
        f"{result['candidate']}: {percentage(result['logistic_val_accuracy'])} % of the validation images right by "
        f"logistic regression, LogME {result['logme']:.3f}, {result['seconds_per_1000_images']:.1f} s for 1,000 images"
    )
