"""Where a run stands: what a checkpoint says beside the variables."""

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes:
      step: Steps done in all.
      phase: Index of the current phase.
      phase_first_step: Step at which it began (earlier than planned after an early stop).
      best_score: Of the best epoch so far (`selection.Validation`); `None` before the first.
      best_loss: Its validation loss; `None` where an older version, which kept none, has chosen it.
      best_step: Step at which it ended.
      stale_epochs: Epochs of this phase since its best score.
      phase_best_score: Highest of this phase; `None` before its first validation.
      validated_epochs: Of this phase, at its last validation; `None` in a checkpoint that does not say.
      is_validation_left: Whether a signal came before the validation at this step was done.
      seconds: Time spent training so far, over all resumes, and building the feature banks that it trains from.
      banks_counted: Phases whose banks are in `seconds`.
    """

    step: int = 0
    phase: int = 0
    phase_first_step: int = 0
    best_score: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    stale_epochs: int = 0
    phase_best_score: float | None = None
    validated_epochs: int | None = 0
    is_validation_left: bool = False
    seconds: float = 0.0
    banks_counted: int = 0

    @classmethod
    def from_json(cls, text: str | bytes) -> "Position":
        """Reads what a checkpoint holds, also of a version that knew no score but the accuracy (-1: none yet)."""
        values = json.loads(text)
        for name, older in (("best_score", "best_val_accuracy"), ("phase_best_score", "phase_best_val_accuracy")):
            if older in values:
                accuracy = values.pop(older)
                values[name] = accuracy if accuracy >= 0 else None
        return cls(**{"validated_epochs": None, **values})

    def to_json(self) -> str:
        """Returns what a checkpoint holds: what earlier versions read, unless a validation is left."""
        values = dataclasses.asdict(self)
        return json.dumps({name: value for name, value in values.items() if name != "is_validation_left" or value})
