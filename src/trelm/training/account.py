"""What a training keeps count of, and when it is to stop, to save and to speak."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

Curve = dict[str, list[float]]
OnUpdate = Callable[[int, int, float, float | None], None]
BeforeUpdate = Callable[[int, int], None]
AfterUpdate = Callable[[int, int], bool | None]
OnNote = Callable[[str], None]


def _silence(text: str) -> None:
    """Nobody listens."""


class Account(TrainerCallback):
    """Counts tokens and seconds, keeps the loss curve, asks for checkpoints by the clock.

    Attributes:
        tokens, seconds, curve: so far. micro_batches: pieces that each batch is computed in; it grows where memory
            runs out. position: where the streams of the batches stand, for a checkpoint. notes: lines for the user.
    """

    def __init__(
        self,
        checkpoint_minutes: float,
        micro_batches: int = 1,
        on_update: OnUpdate | None = None,
        before_update: BeforeUpdate | None = None,
        after_update: AfterUpdate | None = None,
        on_note: OnNote | None = None,
    ) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self.curve: Curve = {"updates": [], "tokens": [], "seconds": [], "loss": []}
        self.micro_batches = micro_batches
        self.position: Any = None
        self.note: OnNote = on_note or _silence
        self.agree: Callable[[bool], bool] | None = None  # set where several processes must decide alike
        self._since = time.perf_counter()
        self._saved = time.perf_counter()
        self._checkpoint_seconds = 60 * checkpoint_minutes
        self._on_update = on_update
        self._before_update = before_update
        self._after_update = after_update
        self._loss: float | None = None

    def values(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "tokens": self.tokens,
            "seconds": self._elapsed(),
            "curve": self.curve,
            "micro_batches": self.micro_batches,
        }

    def restore(self, values: dict[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        self.tokens, self.seconds, self.curve = values["tokens"], values["seconds"], values["curve"]
        self.micro_batches = values.get("micro_batches", self.micro_batches)

    def _is_due(self, args: Any, state: TrainerState) -> bool:
        """Whether it is time for a checkpoint; if so, the clock starts again."""
        due = time.perf_counter() - self._saved > self._checkpoint_seconds
        if self.agree is not None:
            # clocks differ, and to ask the others costs an exchange: not at every update
            due = state.global_step % args.logging_steps == 0 and self.agree(due)
        if due:
            self._saved = time.perf_counter()
        return due

    def _elapsed(self) -> float:
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now
        return self.seconds

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._since = self._saved = time.perf_counter()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._before_update is not None:
            self._before_update(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        ends = False
        if self._after_update is not None:
            self._elapsed()
            ends = bool(self._after_update(state.global_step, state.max_steps))
            control.should_training_stop |= ends
            self._since = time.perf_counter()  # what it took is no training
        # no checkpoint where the training ends early: one resumed from there would go on past its end
        if not ends:
            control.should_save |= self._is_due(args, state)
        if self._on_update is not None:
            self._on_update(state.global_step, state.max_steps, self.tokens / max(self._elapsed(), 1e-9), self._loss)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        self._loss = logs["loss"]
        for name, value in zip(self.curve, (state.global_step, self.tokens, self._elapsed(), logs["loss"])):
            self.curve[name].append(value)
