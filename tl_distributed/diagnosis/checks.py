"""The frame of a check: what it is given, and what becomes of one that raises."""

import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tl_distributed.diagnosis.report import FAILED, NOT_RUN, WARNING, Finding
from tl_distributed.diagnosis.settings import DoctorConfig
from tl_distributed.errors import UserError
from tl_distributed.models.backbones import get_backbone
from tl_distributed.runtime.settings import RuntimeSettings

_TRACEBACK_LINES = 12
DEFECT_REMEDY = "send this report"


class NotRunError(Exception):
    """A check cannot be made because an earlier one failed; the message says which."""


class Subject:
    """What is examined: the settings of a run, and its runtime once a check has asked for it.

    Attributes:
      config: Validated.
      died: Names of checks in which an earlier process of this examination died.
    """

    def __init__(
        self, config: DoctorConfig, *, died: frozenset[str] = frozenset(), chatter: Callable[[], Sequence[str]] = tuple
    ):
        """`chatter` returns the lines that native libraries have written to standard error so far."""
        self.config, self.died, self.chatter = config, died, chatter
        self._runtime: Any = None
        self._stack = contextlib.ExitStack()
        self._is_begun = False

    def start_runtime(self) -> Any:
        """Joins the other workers, starts and returns the `Runtime`, once.

        Raises:
          UserError: As `join.join_workers` and `devices.start_runtime`.
        """
        from tl_distributed.runtime.join import join_workers, shared_flags
        from tl_distributed.training.start import start_devices

        self._is_begun = True
        config = self.config.of_train()
        with contextlib.ExitStack() as stack:
            workers = stack.enter_context(join_workers(config.part(RuntimeSettings), shared_flags(config)))
            self._runtime = start_devices(config, get_backbone(config.backbone), workers)
            self._stack = stack.pop_all()
        return self._runtime

    def leave(self) -> None:
        """Leaves the other workers in order, once all have come so far."""
        self._stack.close()

    def runtime(self) -> Any:
        """Returns the runtime.

        Raises:
          NotRunError: It could not be started.
        """
        if self._runtime is None and not self._is_begun and "strategy" not in self.died:
            self.start_runtime()  # in a fresh process, after one died
        if self._runtime is None:
            raise NotRunError("the strategy could not be started")
        return self._runtime


@dataclasses.dataclass(frozen=True)
class Check:
    """One part of the examination.

    Attributes:
      topic: Heading in the report.
      name: Unique.
      run: Yields findings.
      essential: Whether training would fail where this check fails.
      remedy: What to do where it fails without saying so itself.
      limited: Whether it is ended after a time.
    """

    topic: str
    name: str
    run: Callable[[Subject], Iterable[Finding]]
    essential: bool = True
    remedy: str = DEFECT_REMEDY
    limited: bool = True

    def failure(self, value: str, remedy: str = "", detail: Sequence[str] = ()) -> Finding:
        """Returns the finding of a check that came to no result of its own."""
        status = FAILED if self.essential else WARNING
        return Finding(
            topic=self.topic, name=self.name, value=value, status=status, remedy=remedy or self.remedy,
            detail=tuple(detail),
        )  # fmt: skip


def run_check(check: Check, subject: Subject) -> list[Finding]:
    """Runs a check; one that raises ends in a finding that says so, after those that it had come to."""
    findings: list[Finding] = []
    try:
        findings.extend(check.run(subject))
    except NotRunError as reason:
        findings.append(Finding(topic=check.topic, name=check.name, value=str(reason), status=NOT_RUN))
    except UserError as error:
        what, separator, to_do = " ".join(str(error).split()).rpartition("; ")  # as the project's errors are written
        findings.append(check.failure(what, to_do) if separator else check.failure(to_do))
    except Exception as error:
        lines = "".join(traceback.format_exception(error)).splitlines()[-_TRACEBACK_LINES:]
        cause = next((line for line in str(error).splitlines() if line.strip()), "")
        findings.append(check.failure(f"{type(error).__name__}: {cause}", detail=lines))
    return findings
