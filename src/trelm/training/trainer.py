"""The one training loop: Hugging Face's `Trainer` with our batches, our accounts and checkpoints without pickle."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.utils import SAFE_WEIGHTS_NAME

from trelm import processes
from trelm.errors import TrainingError, first_line
from trelm.training import checkpoints, collective, sharding
from trelm.training.account import Account, AfterUpdate, BeforeUpdate, Curve, OnNote, OnUpdate
from trelm.training.batches import PlannedBatches
from trelm.training.device import compile_layers, prepared, quick_attention
from trelm.training.guard import FiniteGuard, is_lost_process, is_out_of_memory
from trelm.training.objectives import (
    Batch,
    Objective,
    is_divisible,
    longest,
    micro_batches,
    rows,
    share_of_process,
)
from trelm.training.teaching import Teacher
from trelm.workspace import writing

ENCODER = "encoder."
"""How the parameters begin that are not a task's own layers."""
GPU_WORKERS = 2
"""Processes that make batches ahead of the steps of a GPU; on a CPU they would take its cores away."""


@dataclass(frozen=True)
class LoopSettings:
    """How a stage is trained; names as in the configuration.

    Attributes:
        learning_rate: the peak. warmup: updates (1 or more) or share of the updates (below 1), at most half of them.
        head_learning_rate: the peak of the parameters whose name does not begin with `encoder.`; None: the same.
        body_learning_rate: the peak of those that `body` names; None: the same.
        micro_batches: pieces that each process computes its batch in, to save memory; the update is the same.
        sharding: `fsdp`: weights, gradients and optimiser state are split over the processes, where there are several.
        compiled: whether the layers are compiled, which takes a while first and pays in long stages on a GPU.
        teacher: whose states taught text is pulled to.
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
    body_learning_rate: float | None = None
    body: frozenset[str] = frozenset()
    micro_batches: int = 1
    sharding: Literal["none", "fsdp"] = "none"
    compiled: bool = False
    teacher: Teacher | None = None


@dataclass(frozen=True)
class Trained:
    """What a stage did: seconds of training, real tokens, updates, the loss along the way, pieces of a batch."""

    seconds: float
    tokens: int
    updates: int
    curve: Curve
    micro_batches: int = 1


class StageTrainer(Trainer):
    """`Trainer` over planned batches."""

    train_dataset: PlannedBatches

    def __init__(
        self, objective: nn.Module, account: Account, rates: Mapping[str, float] | None = None, **arguments: Any
    ) -> None:
        super().__init__(model=objective, **arguments)
        self.account = account
        self.rates = rates or {}  # peaks of the parameters that have one of their own, by name
        self.folder = Path(str(self.args.output_dir))
        self.trained: Any = objective.model  # what is saved; `self.model` is its objective
        self.guard = FiniteGuard(self.args.device, self.folder, self.train_dataset.describe)
        self.model_accepts_loss_kwargs = False  # labels are counted by the batches themselves

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """One planned batch at a time, this process's share of it."""
        on_gpu = self.args.device.type == "cuda"
        return DataLoader(
            self.train_dataset,
            sampler=SequentialSampler(self.train_dataset),
            collate_fn=partial(_own_share, number=self.args.process_index, of=self.args.world_size),
            num_workers=self.train_dataset.workers(GPU_WORKERS) if on_gpu else 0,
            pin_memory=on_gpu,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        own = {id(weight): self.rates.get(name) for name, weight in self.trained.named_parameters()}
        if any(rate is not None for rate in own.values()):
            _part_by_rate(optimizer, own)
        return optimizer

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a batch in as many pieces as memory allows; the loss of it all."""
        model.train()
        tokens, position = self._count_over_all(inputs), inputs.pop("position", None)
        batch: Batch = self._prepare_inputs(inputs)
        loss = self._backward(model, batch)
        self.guard.see(loss, self.state.global_step)
        self.account.tokens += tokens
        self.account.position = position
        return loss

    def _count_over_all(self, batch: Batch) -> int:
        """Tokens of a batch of all processes; its counts of labels become those of all, too."""
        tokens, own_tokens = batch.pop("tokens"), batch.pop("own_tokens", 0)
        own = [number for number, is_own in enumerate(batch.pop("is_own", ())) if is_own]
        if own and collective.is_joint():
            counts = [own_tokens, *(batch["labelled"][number] for number in own)]
            own_tokens, *labelled = collective.summed(counts, self.args.device)
            for number, count in zip(own, labelled):
                batch["labelled"][number] = count
        return int(tokens + own_tokens)

    def _backward(self, model: nn.Module, batch: Batch) -> Tensor:
        while True:
            try:
                return self._accumulate(model, batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                pieces = self._more_pieces(batch)
            model.zero_grad()
            if self.args.device.type == "cuda":
                torch.cuda.empty_cache()
            self.account.micro_batches = pieces
            self.account.note(f"memory ran out: from now on each batch is computed in {pieces} pieces")

    def _accumulate(self, model: nn.Module, batch: Batch) -> Tensor:
        """Add up the gradients of all pieces; several processes exchange them with the last one."""
        total = torch.zeros((), device=self.args.device)
        for number, piece in enumerate(micro_batches(batch, self.account.micro_batches), start=1):
            last = number == self.account.micro_batches
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with (
                    self.compute_loss_context_manager(),
                    quick_attention(self.args.device.type, self.args.bf16, longest(piece)),
                ):
                    loss = model(piece) * self.args.world_size  # gradients are averaged over the processes
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _more_pieces(self, batch: Batch) -> int:
        """Twice as many pieces.

        Raises:
            TrainingError: there are as many as sentences, the model's loss cannot be cut, or other processes wait.
        """
        pieces = 2 * self.account.micro_batches
        if collective.is_joint():
            hint = f"set training.micro_batches={pieces} (in a new run folder)"
        elif not is_divisible(self.trained):
            hint = "lower the tokens of a batch"
        elif pieces > 2 * rows(batch):
            hint = "lower training.max_length: not even one sentence fits"
        else:
            return pieces
        raise TrainingError(
            f"{self.folder}: expected memory for a batch in {self.account.micro_batches} pieces, found too little; "
            f"{hint}"
        )

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm: Any = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self.guard.see(norm, self.state.global_step)
        return norm  # type: ignore[no-any-return]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.guard.check()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # counted in closed form for the whole stage, see trelm.cost

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Every process gives what is its own; the first one writes."""
        self.guard.check()
        device, joint = self.args.device, collective.is_joint()
        random = checkpoints.random_state()
        randoms = {name: collective.gather_tensors(s, device) if joint else [s] for name, s in random.items()}
        position = json.dumps(self.account.position)
        positions = collective.gather_texts(position, device) if joint else [position]
        sharded = sharding.is_sharded(self.trained)
        weights = sharding.full_weights(self.trained) if sharded else None
        optimizer = sharding.full_optimizer(self._objective, self._plain_optimizer) if sharded else None
        if not processes.is_first():
            return
        folder = self.folder / f"checkpoint-{self.state.global_step}"
        with writing(self.folder):
            _save_weights(self.trained, folder, weights)
            if optimizer is None:
                checkpoints.save_optimizer(self._plain_optimizer, folder)
            else:
                checkpoints.write_optimizer(folder, optimizer["tensors"], optimizer["groups"], {})
            checkpoints.save_scheduler(self.lr_scheduler, folder)
            checkpoints.save_random_states(randoms, folder)
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            values = {**self.account.values(), "positions": [json.loads(text) for text in positions]}
            checkpoints.mark_complete(folder, values)
            checkpoints.keep_newest(self.folder, int(self.args.save_total_limit or 1))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME)
        if sharding.is_sharded(self.trained):
            sharding.set_full_weights(self.trained, weights)
        else:
            self.trained.load_state_dict(weights, strict=False)  # tied and frozen ones may be left out

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        tensors, saved = checkpoints.read_optimizer(folder)
        groups, is_named = saved["groups"], sharding.is_named(tensors)
        if sharding.is_sharded(self.trained) or is_named:  # written by as many processes as there are now, or not
            if not is_named:
                tensors, groups = sharding.named(self._objective, self._plain_optimizer, tensors, groups)
            sharding.set_full_optimizer(self._objective, self._plain_optimizer, tensors, groups)
        else:
            checkpoints.load_optimizer(self._plain_optimizer, folder)
        checkpoints.load_scheduler(self.lr_scheduler, folder)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_random_state(Path(checkpoint), self.args.process_index)

    @property
    def _objective(self) -> nn.Module:
        objective: nn.Module = self.accelerator.unwrap_model(self.model)
        return objective

    @property
    def _plain_optimizer(self) -> torch.optim.Optimizer:
        """Torch's own optimiser, once training has begun."""
        if self.optimizer is None:
            raise RuntimeError("a checkpoint was asked for before the optimiser was made")
        plain: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return plain


def train(
    model: nn.Module,
    batches: PlannedBatches,
    settings: LoopSettings,
    folder: Path,
    on_update: OnUpdate | None = None,
    before_update: BeforeUpdate | None = None,
    after_update: AfterUpdate | None = None,
    on_note: OnNote | None = None,
) -> Trained:
    """Train `model` in place on all `batches`, from the last whole checkpoint in `folder` if there is one.

    Where `torchrun` has started several processes, all of them must call this with the same arguments but for
    `folder`, which only the first one's is read and written; each trains on its share of every batch. Then `model` is
    the trained one in all of them, or in the first one where it is sharded.

    Args:
        before_update: called before every update with (updates done, updates in all); what it sets must depend on
            these alone, or a resumed training would differ.
        on_update: called after every update with (updates done, updates in all, tokens a second, the last
            logged loss if there is one).
        after_update: called after every update with (updates done, updates in all), before a checkpoint is written;
            the time that it takes is not counted. True ends the training there.
        on_note: told, in a line, what the user should know of.

    Raises:
        TrainingError: the loss is no number, memory runs out whatever is done, or another process is gone.
    """
    account = Account(
        settings.checkpoint_minutes, settings.micro_batches, on_update, before_update, after_update, on_note
    )
    arguments = _arguments(settings, folder, len(batches))
    checkpoint = _last_checkpoint(folder, account, arguments.device)
    if checkpoint is not None:
        values = checkpoints.read_values(checkpoint)
        account.restore(values)
        batches.restore(values.get("positions", []), arguments.process_index, folder)
    trainer = _trainer(model, batches, settings, arguments, account)
    with prepared(settings.device), _other_processes(folder):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.guard.check()
        if sharding.is_sharded(trainer.trained):
            model.load_state_dict(sharding.full_weights(trainer.trained), strict=False)
    values = account.values()
    return Trained(
        values["seconds"], values["tokens"], trainer.state.global_step, values["curve"], account.micro_batches
    )


def _trainer(
    model: nn.Module, batches: PlannedBatches, settings: LoopSettings, arguments: TrainingArguments, account: Account
) -> StageTrainer:
    """What trains the model, or a copy of it that is split over the processes."""
    sharded = settings.sharding == "fsdp" and collective.is_joint()
    objective: nn.Module = Objective(_copy(model) if sharded else model, settings.teacher)
    if settings.compiled:
        compile_layers(objective)
    trainer = StageTrainer(
        sharding.shard(objective, arguments.device) if sharded else objective,
        account,
        _own_rates(model, settings),
        args=arguments,
        train_dataset=batches,
        callbacks=[account],
    )
    if collective.is_joint():
        account.agree = partial(collective.agreed, device=arguments.device)
    trainer.remove_callback(PrinterCallback)
    return trainer


def warmup_updates(warmup: float, updates: int) -> int:
    """Updates of rising learning rate: never more than half of the stage."""
    wanted = warmup if warmup >= 1 else warmup * updates
    return min(round(wanted), updates // 2)


def _own_rates(model: nn.Module, settings: LoopSettings) -> dict[str, float]:
    """The peaks of the parameters that have one of their own, by name."""
    rates = {}
    for name, _ in model.named_parameters():
        if settings.head_learning_rate is not None and not name.startswith(ENCODER):
            rates[name] = settings.head_learning_rate
        if settings.body_learning_rate is not None and name in settings.body:
            rates[name] = settings.body_learning_rate
    return rates


def _part_by_rate(optimizer: torch.optim.Optimizer, rates: Mapping[int, float | None]) -> None:
    """Move parameters to groups of those that have one learning rate: of their own by their ids, else None."""
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        parts: dict[float | None, list[nn.Parameter]] = {}
        for weight in group["params"]:
            parts.setdefault(rates.get(id(weight)), []).append(weight)
        for rate in sorted(parts, key=lambda rate: -1.0 if rate is None else rate, reverse=True):
            own = {} if rate is None else {"lr": rate}
            optimizer.add_param_group({**group, "params": parts[rate], **own})


def _own_share(items: list[Batch], *, number: int, of: int) -> Batch:
    """This process's share of a planned batch, which is already one."""
    return share_of_process(items[0], number, of)


def _last_checkpoint(folder: Path, account: Account, device: torch.device) -> Path | None:
    """The last whole checkpoint that the first process finds."""
    found = checkpoints.last_complete(folder, account.note) if processes.is_first() else None
    if collective.is_joint():
        name = collective.broadcast_text("" if found is None else str(found.resolve()), device)
        return Path(name) if name else None
    return found


def _save_weights(model: Any, folder: Path, weights: dict[str, Tensor] | None) -> None:
    """What trains of a model, in safetensors; `weights` are those of one that is split over processes."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder, state_dict=weights)
        return
    folder.mkdir(parents=True, exist_ok=True)
    if weights is None:
        save_model(model, str(folder / SAFE_WEIGHTS_NAME))
    else:
        save_file(weights, folder / SAFE_WEIGHTS_NAME)


def _copy(model: nn.Module) -> nn.Module:
    """A copy to be split; its configuration is the model's own, which changes while it trains."""
    shared = getattr(model, "config", None)
    return copy.deepcopy(model, {id(shared): shared})


@contextlib.contextmanager
def _other_processes(folder: Path) -> Iterator[None]:
    """Say it in one line where a process that computes with this one is gone."""
    try:
        yield
    except RuntimeError as error:
        if collective.is_joint() and is_lost_process(error):
            raise TrainingError(
                f"{folder}: expected all {processes.count()} processes to train together, found one gone "
                f"({first_line(error)}); see what it said: the same command goes on from the last checkpoint"
            ) from None
        raise


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
    )
    # With several cards and one process, Trainer would split each batch over them by itself.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
