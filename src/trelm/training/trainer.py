"""The one training loop: Hugging Face's `Trainer` with our batches, our accounts and checkpoints without pickle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import SAFE_WEIGHTS_NAME

from trelm.training import checkpoints
from trelm.training.batches import PlannedBatches
from trelm.training.objectives import batch_loss
from trelm.workspace import read_json, writing

Curve = dict[str, list[float]]
OnUpdate = Callable[[int, int, float, float | None], None]
BeforeUpdate = Callable[[int, int], None]
AfterUpdate = Callable[[int, int], bool | None]

ENCODER = "encoder."
"""How the parameters begin that are not a task's own layers."""


@dataclass(frozen=True)
class LoopSettings:
    """How a stage is trained; names as in the configuration.

    Attributes:
        learning_rate: the peak. warmup: updates (1 or more) or share of the updates (below 1), at most half of them.
        head_learning_rate: the peak of the parameters whose name does not begin with `encoder.`; None: the same.
    """

    learning_rate: float
    warmup: float
    schedule: Literal["linear", "constant"]
    weight_decay: float
    epsilon: float
    gradient_clipping: float
    precision: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    checkpoint_minutes: float
    log_updates: int
    seed: int
    head_learning_rate: float | None = None


@dataclass(frozen=True)
class Trained:
    """What a stage did: seconds of training, real tokens, updates, and the loss along the way."""

    seconds: float
    tokens: int
    updates: int
    curve: Curve


class _Account(TrainerCallback):
    """Counts tokens and seconds, keeps the loss curve, asks for checkpoints by the clock."""

    def __init__(
        self,
        checkpoint_minutes: float,
        on_update: OnUpdate | None,
        before_update: BeforeUpdate | None = None,
        after_update: AfterUpdate | None = None,
    ) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self.curve: Curve = {"updates": [], "tokens": [], "seconds": [], "loss": []}
        self._since = time.perf_counter()
        self._saved = time.perf_counter()
        self._checkpoint_seconds = 60 * checkpoint_minutes
        self._on_update = on_update
        self._before_update = before_update
        self._after_update = after_update
        self._loss: float | None = None

    def values(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"tokens": self.tokens, "seconds": self._elapsed(), "curve": self.curve}

    def restore(self, values: dict[str, Any]) -> None:
        """Go on counting from a checkpoint."""
        self.tokens, self.seconds, self.curve = values["tokens"], values["seconds"], values["curve"]

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
        if not ends and time.perf_counter() - self._saved > self._checkpoint_seconds:
            control.should_save = True
            self._saved = time.perf_counter()
        if self._on_update is not None:
            self._on_update(state.global_step, state.max_steps, self.tokens / max(self._elapsed(), 1e-9), self._loss)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        self._loss = logs["loss"]
        for name, value in zip(self.curve, (state.global_step, self.tokens, self._elapsed(), logs["loss"])):
            self.curve[name].append(value)


class StageTrainer(Trainer):
    """`Trainer` over planned batches."""

    def __init__(self, account: _Account, head_learning_rate: float | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.account = account
        self.head_learning_rate = head_learning_rate
        self.folder = Path(str(self.args.output_dir))
        self.model_accepts_loss_kwargs = False  # batch_loss is a mean over the batch

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        planned: Any = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(planned)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self.head_learning_rate is not None:
            trained: Any = self.model
            head = {id(weight) for name, weight in trained.named_parameters() if not name.startswith(ENCODER)}
            _part_head(optimizer, head, self.head_learning_rate)
        return optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        self.account.tokens += inputs["tokens"]
        return batch_loss(model, inputs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # counted in closed form for the whole stage, see trelm.cost

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model: Any = self.model
        folder = Path(output_dir or self.folder)
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(folder, state_dict=state_dict)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            save_model(model, str(folder / SAFE_WEIGHTS_NAME))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        checkpoints.save_optimizer(_there(self.optimizer), Path(output_dir))
        checkpoints.save_scheduler(self.lr_scheduler, Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_optimizer(_there(self.optimizer), Path(checkpoint))
            checkpoints.load_scheduler(self.lr_scheduler, Path(checkpoint))

    def _save_rng_state(self, output_dir: str) -> None:
        checkpoints.save_random_state(Path(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_random_state(Path(checkpoint))

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        with writing(self.folder):
            super()._save_checkpoint(model, trial)
            folder = self.folder / f"checkpoint-{self.state.global_step}"
            checkpoints.mark_complete(folder, self.account.values())


def train(
    model: nn.Module,
    batches: PlannedBatches,
    settings: LoopSettings,
    folder: Path,
    on_update: OnUpdate | None = None,
    before_update: BeforeUpdate | None = None,
    after_update: AfterUpdate | None = None,
) -> Trained:
    """Train `model` in place on all `batches`, from the last whole checkpoint in `folder` if there is one.

    Args:
        before_update: called before every update with (updates done, updates in all); what it sets must depend on
            these alone, or a resumed training would differ.
        on_update: called after every update with (updates done, updates in all, tokens a second, the last
            logged loss if there is one).
        after_update: called after every update with (updates done, updates in all), before a checkpoint is written;
            the time that it takes is not counted. True ends the training there.
    """
    account = _Account(settings.checkpoint_minutes, on_update, before_update, after_update)
    checkpoint = checkpoints.last_complete(folder)
    if checkpoint is not None:
        account.restore(read_json(checkpoint / checkpoints.COMPLETE))
    trainer = StageTrainer(
        account,
        settings.head_learning_rate,
        model=model,
        args=_arguments(settings, folder, len(batches)),
        train_dataset=batches,
        data_collator=_only,
        callbacks=[account],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    values = account.values()
    return Trained(values["seconds"], values["tokens"], trainer.state.global_step, values["curve"])


def warmup_updates(warmup: float, updates: int) -> int:
    """Updates of rising learning rate: never more than half of the stage."""
    wanted = warmup if warmup >= 1 else warmup * updates
    return min(round(wanted), updates // 2)


def has_fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 arithmetic is in the hardware."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # oneDNN also counts AVX-512 without bfloat16 instructions, where it computes in float32 and converts
    emulated = torch.cpu._is_avx512_supported() and not torch.cpu._is_avx512_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and not emulated


def _part_head(optimizer: torch.optim.Optimizer, head: set[int], rate: float) -> None:
    """Move the parameters with these ids to groups of their own that have another learning rate."""
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for weight in group["params"]:
            parts[id(weight) in head].append(weight)
        for is_head, weights in parts.items():
            if weights:
                optimizer.add_param_group({**group, "params": weights, **({"lr": rate} if is_head else {})})


def _there(optimizer: torch.optim.Optimizer | None) -> torch.optim.Optimizer:
    """The optimiser, once training has begun."""
    if optimizer is None:
        raise RuntimeError("a checkpoint was asked for before the optimiser was made")
    return optimizer


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A planned batch is already one."""
    return items[0]


def _arguments(settings: LoopSettings, folder: Path, updates: int) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=updates,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear" if settings.schedule == "linear" else "constant_with_warmup",
        warmup_steps=warmup_updates(settings.warmup, updates),
        weight_decay=settings.weight_decay,
        adam_epsilon=settings.epsilon,
        max_grad_norm=settings.gradient_clipping,
        bf16=settings.precision == "bfloat16",
        use_cpu=settings.device == "cpu",
        seed=settings.seed,
        logging_steps=settings.log_updates,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )
    # With several cards, Trainer would fetch one planned batch a card, and of these we would train on the first only.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
