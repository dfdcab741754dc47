"""A build as two pipelines of Apache Beam: parts of the source are read side by side, then shards written so.

Between the two, this process decides over the splits, as every build does. Images go from one to the other by files in
a folder that all workers reach, beside the output: runners hold what goes through a pipeline in memory, or write it
somewhere too. So while it runs, the build takes the data set's size once more.
"""

import contextlib
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from data_prep.config import BuildConfig
from data_prep.engines import beam_work
from data_prep.engines.engine import Engine, Held
from data_prep.engines.part_files import read_images
from data_prep.id_file import IdFile
from data_prep.index import COLUMNS, Index
from data_prep.source import Source
from data_prep.staging import Staging
from tl_distributed.data.records import Shard, shard_name
from tl_distributed.data.storing import StorageRule
from tl_distributed.errors import UserError, one_line

_OPTIONS_LOGGER, _DISCARDING = "apache_beam.options.pipeline_options", "Discarding"


class BeamEngine(Engine):
    """See `Engine`."""

    def __init__(self, config: BuildConfig):
        """Reads the options.

        Raises:
          UserError: Beam is not installed, or does not know an option.
        """
        try:
            import apache_beam  # noqa: F401
        except ImportError as error:
            raise UserError(f"--engine=beam: Apache Beam is missing ({error}); pip install .[beam]") from None
        self._options = _parse_options(config.beam_options)

    @contextlib.contextmanager
    def read(self, source: Source, rule: StorageRule, place: Staging, id_file: IdFile) -> Iterator[Held]:
        folder = place.make_shared_dir()
        parts = [(split, part) for split in source.splits for part in source.parts(split)]
        tasks = [
            beam_work.ReadTask(number, split, part, rule, source.num_labels, folder)
            for number, (split, part) in enumerate(parts)
        ]
        print(f"Read {len(tasks):,} parts of the source by Beam", flush=True)
        self._run("Read", beam_work.read_part, tasks)
        index = Index(source.label_sets)
        for number, (split, _) in enumerate(parts):
            id_file.append(beam_work.append_part(index, folder, number, split))
        index.finish()
        id_file.finish()
        yield _Files(self, index, id_file, folder, place.shard_dir)

    def write(self, tasks: Sequence[beam_work.WriteTask]) -> None:
        """Writes shards."""
        print(f"Write {len(tasks):,} shards by Beam", flush=True)
        self._run("Write", beam_work.write_shard, tasks)

    def _run(self, label: str, work: Callable[[Any], None], tasks: Sequence[Any]) -> None:
        """Has the workers do all tasks.

        Raises:
          UserError: The pipeline failed; what a task says of its own failure is in its result.
        """
        import apache_beam as beam

        try:
            with beam.Pipeline(options=self._options) as pipeline:
                _ = pipeline | "Tasks" >> beam.Create(tasks) | beam.Reshuffle() | label >> beam.Map(work)
        except Exception as error:  # each runner has types of its own
            raise UserError(f"--engine=beam: the pipeline failed ({one_line(error)}); nothing is left of it") from error


class _Files(Held):
    def __init__(self, engine: BeamEngine, index: Index, id_file: IdFile, folder: str, shard_dir: str):
        self.index, self._engine, self._ids = index, engine, id_file
        self._folder, self._shard_dir = folder, shard_dir

    def images(self, rows: np.ndarray) -> list[bytes]:
        index = self.index
        return read_images(self._folder, index.parts[rows], index.offsets[rows], index.lengths[rows])

    def write(self, plans: dict[str, list[np.ndarray]]) -> dict[str, tuple[Shard, ...]]:
        tasks, splits = [], []
        for split, plan in plans.items():
            for number, rows in enumerate(plan):
                path = f"{self._shard_dir}/{shard_name(split, number, len(plan))}"
                task = beam_work.WriteTask(len(tasks), path, self._folder)
                columns = {name: getattr(self.index, name)[rows] for name in COLUMNS}
                arrays = columns | beam_work.pack_names(self._ids.read(rows))
                if self.index.label_sets is not None:
                    arrays |= beam_work.pack_labels(self.index.labels_of(rows))
                beam_work.save_arrays(f"{self._folder}/rows-{task.number:05d}.npz", arrays)
                tasks.append(task)
                splits.append(split)
        self._engine.write(tasks)
        shards = [beam_work.written_shard(self._folder, task.number) for task in tasks]
        return {split: tuple(shard for shard, of in zip(shards, splits, strict=True) if of == split) for split in plans}


def _parse_options(text: str) -> Any:
    """Returns Beam's options; it drops what no part of it knows with a warning, which here is an error."""
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.runners import create_runner

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--beam_options={text}: cannot be taken apart ({error})") from None
    heard = _Heard()
    logger = logging.getLogger(_OPTIONS_LOGGER)
    logger.addHandler(heard)
    try:
        runner = (
            PipelineOptions([word for word in words if word.startswith("--runner")]).view_as(StandardOptions).runner
        )
        create_runner(runner or "DirectRunner")  # which has options of its own that are known from then on
        heard.lines.clear()
        options = PipelineOptions(words, save_main_session=False)
        options.get_all_options()
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--beam_options={text}: no such runner ({one_line(error)})") from None
    except SystemExit:  # argparse, of a wrong value
        raise UserError(f"--beam_options={text}: a wrong value; Beam says above which") from None
    finally:
        logger.removeHandler(heard)
    for line in heard.lines:
        if _DISCARDING in line:
            raise UserError(f"--beam_options={text}: Beam does not know all of it ({one_line(line)})")
    return options


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
