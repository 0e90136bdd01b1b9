"""The configuration as a frozen, typed tree: every knob with its default and what it means."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from trelm.config.comparison import ComparisonConfig
from trelm.config.evaluation import EvaluationConfig, require_distinct
from trelm.config.section import Section


def _only_hub_names(value: Any) -> Any:
    """One name as a list of one; names of files are refused: those are `text`."""
    names = (value,) if isinstance(value, str) else value
    several = names if isinstance(names, list | tuple) else ()
    if any(isinstance(name, str) and not name.startswith("hf://") for name in several):
        raise ValueError("expected hf:// names of data sets, which are read while training; name files under text")
    return names


Stream = Annotated[tuple[str, ...], BeforeValidator(_only_hub_names)]


class SourceConfig(Section):
    """The encoder that is transferred, and text in its language."""

    model: str = Field(description="folder or Hub id of the encoder; 'minilm' is the MiniLM of the `demo` extra")
    language: str = Field("en", min_length=1, description="code of the encoder's language")
    text: tuple[str, ...] = Field(min_length=1, description="files, globs or hf:// data sets of text in that language")
    revision: str | None = Field(None, description="Hub revision of the encoder")
    tokenizer: str | None = Field(None, description="folder or Hub id of its tokenizer, where it comes without one")
    follow_links: bool = Field(
        False, description="read files of these folders also where they are links that lead out of them"
    )
    stream: Stream = Field((), description="as target.stream, for text in this language")


class TargetConfig(Section):
    """The language that the encoder is moved to."""

    language: str = Field(min_length=1, description="code of the target language")
    text: tuple[str, ...] = Field(min_length=1, description="files, globs or hf:// data sets of text in that language")
    stream: Stream = Field(
        (),
        description="hf:// data sets larger than the disk, of one column each: the stages train on their text in place "
        "of `text`, read meanwhile and never stored; `text` is then a sample, for all else: vocabulary, vectors, "
        "held-out lines (those of the stream that equal one are left out)",
    )


class TwoFiles(Section):
    """Two line-aligned files."""

    source: str = Field(description="file in the source language")
    target: str = Field(description="file in the target language, its lines translations of the other's")


def _pair_kind(value: Any) -> str:
    return TWO_FILES if isinstance(value, (dict, TwoFiles)) else ONE_NAME


# The tags stand in pydantic's locations; the brackets keep them apart from keys that a user may write.
TWO_FILES, ONE_NAME = "(two files)", "(one name)"
PairSource = Annotated[Annotated[str, Tag(ONE_NAME)] | Annotated[TwoFiles, Tag(TWO_FILES)], Discriminator(_pair_kind)]


class BudgetConfig(Section):
    """What the run may cost, or each cell of a comparison. Exactly one of the four."""

    minutes: float | None = Field(None, gt=0, description="wall-clock time of the whole command, baseline included")
    tokens: int | None = Field(None, gt=0, description="tokens that each model trains on, padding not counted")
    updates: int | None = Field(None, gt=0, description="optimiser updates of each model")
    flops: float | None = Field(None, gt=0, description="floating-point operations of each model's training")

    @model_validator(mode="after")
    def _exactly_one(self) -> BudgetConfig:
        names = ("minutes", "tokens", "updates", "flops")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(names)} (given: {', '.join(given) or 'none'})")
        return self


class CorpusConfig(Section):
    """Cleaning, deduplication, held-out split."""

    min_characters: int = Field(2, ge=1, description="shorter lines are dropped")
    max_characters: int = Field(2000, ge=1, description="longer lines are dropped")
    max_pair_ratio: float = Field(4.0, gt=1, description="pairs whose character lengths differ by more are dropped")
    held_out_fraction: float = Field(0.01, gt=0, lt=0.5, description="share of lines held out, by content hash")
    held_out_lines: int = Field(1500, ge=10, description="at most so many lines a language are held out")
    max_lines: int | None = Field(None, ge=1, description="at most so many lines of each input, from its start")
    max_target_lines: int | None = Field(
        None,
        ge=1,
        description="for experiments with little data: at most so many lines of target text train, an even sample of "
        "those that are no side of a pair; the target side of the pairs trains besides",
    )
    max_pairs: int | None = Field(
        None,
        ge=1,
        description="for experiments with little data: at most so many pairs train, an even sample; neither limit "
        "changes what is held out, or the source text",
    )
    development_lines: int = Field(
        0, ge=0, description="held-out target lines that models are chosen on, and not scored: see training.patience"
    )


class HeadConfig(Section):
    """A masked-LM head for an encoder whose checkpoint has none: fitted on source text, the encoder itself frozen."""

    updates: int = Field(0, ge=0, description="of the fitting, some hundreds; 0: none, the head starts at random")
    batch_tokens: int = Field(1024, ge=16, description="tokens of a batch, padding counted")
    learning_rate: float = Field(3e-3, gt=0, description="at its peak; it rises for a tenth of the updates, then falls")
    max_lines: int = Field(50_000, ge=1, description="at most so many lines of source text, an even sample of them")


class VocabularyConfig(Section):
    """METHOD section 1: the joint vocabulary."""

    size: int = Field(80_000, ge=300, description="entries of the joint vocabulary")
    min_frequency: int = Field(2, ge=1, description="rarer subwords get no entry")
    alphabet_limit: int | None = Field(None, ge=10, description="characters; null: 30,000 for Han scripts, else 1,000")
    lowercase: bool | None = Field(None, description="null: as the source tokenizer does")
    max_lines: int = Field(2_000_000, ge=100, description="lines a language that the vocabulary is trained on")


class EmbeddingsConfig(Section):
    """METHOD section 2: skip-gram vectors of subwords; and where the rows of the new vocabulary start."""

    initialisation: Literal[
        "recommended", "trelm", "counts", "wechsel", "focus", "pieces", "shared", "random", "multivariate"
    ] = Field(
        "trelm",
        description="trelm: mapped vectors, and the rows that `min_links` and `copy_shared` say; recommended: linked "
        "rows, copies, neighbours in the aligned space, else pieces, at the source's lengths; counts: mixed by word "
        "links (RAMEN), else as pieces; wechsel: by words of a dictionary; focus: by entries in common; pieces: copied "
        "where spelled alike, else the mean of the pieces (FVT); shared: copied where spelled alike, else drawn; "
        "random: drawn, each dimension alone; multivariate: together",
    )
    dictionary: tuple[str, ...] = Field(
        (), description="files of 'source word<TAB>target word' for wechsel; not those that a model is judged by"
    )
    epochs: int = Field(10, ge=1, description="passes over the text")
    window: int = Field(5, ge=1, description="subwords on either side that predict and are predicted")
    negatives: int = Field(10, ge=1, description="noise subwords for each true one")
    max_tokens: int | None = Field(None, ge=1, description="at most so many tokens of each language")
    min_links: int | None = Field(
        None,
        ge=1,
        description="target entries with so many word links take the mean of the source rows they are linked to; "
        "null: none do",
    )
    copy_shared: bool = Field(True, description="entries spelled alike in the source vocabulary take its own vector")

    @field_validator("dictionary", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _wechsel_has_a_dictionary(self) -> EmbeddingsConfig:
        if self.initialisation == "wechsel" and not self.dictionary:
            raise ValueError(
                "initialisation 'wechsel' needs a dictionary, found none; name files of 'source word<TAB>target word' "
                "under dictionary, or choose another initialisation"
            )
        return self


class AlignmentConfig(Section):
    """METHOD section 3."""

    method: Literal["auto", "adversarial", "identical", "parallel", "none"] = Field(
        "auto",
        description="seeds: none, entries spelled alike, word links too; auto: one that hasn't collapsed, if any, that "
        "finds most held-out word links again; by the criterion where there are too few of them",
    )
    map: Literal["orthogonal", "ridge"] = Field(
        "orthogonal",
        description="what is fitted to seeds and in refinement: a rotation (semi-orthogonal where widths differ) or "
        "ridge regression, its images rescaled to the mean length of the encoder's rows",
    )
    prune_links: bool = Field(False, description="only word links that are each other's most frequent are seeds")
    normalisation: Literal["none", "unit", "centre-unit", "iterative", "whiten"] = Field(
        "centre-unit",
        description="of both tables before a map is learned; undone afterwards. unit: length 1; centre-unit: less the "
        "mean, then length 1; iterative: both in turns until both hold; whiten: centred, decorrelated (ZCA), length 1",
    )
    csls_neighbours: int = Field(10, ge=1, description="k of CSLS")
    criterion_entries: int = Field(10_000, ge=10, description="most frequent entries that the criterion is taken over")
    refinement_rounds: int = Field(5, ge=0, description="rounds of a dictionary and a map fitted to it")
    refinement_entries: int = Field(15_000, ge=10, description="most frequent entries that the dictionary is made of")
    restarts: int = Field(2, ge=0, description="games with other seeds after one that collapsed, at most")
    adversarial_epochs: int = Field(5, ge=1, description="epochs of the game, at most")
    adversarial_samples: int = Field(100_000, ge=1, description="rows that the mapping is trained on in an epoch")
    adversarial_batch: int = Field(32, ge=2, description="rows of each table in a step")
    discriminator_width: int = Field(256, ge=1, description="width of its two hidden layers")
    discriminator_steps: int = Field(2, ge=1, description="its steps for each step of the mapping")
    discriminator_dropout: float = Field(0.1, ge=0, lt=1, description="of its input")
    smoothing: float = Field(0.1, ge=0, lt=0.5, description="of its labels")
    learning_rate: float = Field(0.3, gt=0, description="of both players (SGD); halved when the criterion falls")
    learning_rate_decay: float = Field(0.98, gt=0, le=1, description="factor an epoch")
    orthogonalisation: float = Field(0.001, ge=0, description="beta of W <- (1 + b) W - b (W W^T) W")
    patience: int = Field(2, ge=1, description="epochs without a better criterion after which the game stops")


class WordLinksConfig(Section):
    """METHOD section 5: statistical word alignment of the parallel text."""

    unit: Literal["subword", "word"] = Field("subword", description="what is linked; words are projected to subwords")
    iterations: int = Field(5, ge=1, description="of expectation maximisation, in each direction")
    max_pairs: int | None = Field(None, ge=1, description="pairs that the aligner is trained on; all by default")


class ModelConfig(Section):
    """METHOD section 4: what the model has besides the encoder."""

    tri_layer: bool = Field(True, description="a TRILayer in the middle; false: the encoder's own layers alone")


class StageConfig(Section):
    """How one stage trains."""

    share: float = Field(ge=0, description="part of the budget, relative to the other stages' shares")
    learning_rate: float = Field(3e-5, gt=0, description="at its peak, after the warm-up")
    body_learning_rate: float | None = Field(
        None, gt=0, description="of the encoder's layers, at its peak; null: that of embeddings, TRILayer, head"
    )
    warmup: float = Field(500, ge=0, description="updates (1 or more) or share of the stage's updates (below 1)")
    schedule: Literal["linear", "constant"] = Field("linear", description="linear: falls to 0 after the warm-up")
    mask_rate: float | None = Field(
        None, gt=0, lt=1, description="share of the tokens to be predicted in it; null: training.mask_rate"
    )


class JointStageConfig(StageConfig):
    """How the stage trains in which both halves learn together; shares are of each batch, the rest is target text."""

    cross_lingual: float = Field(0.0, ge=0, le=1, description="share of CdLM, half of it in each direction")
    taught: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the pairs' target side, masked, whose states at linked positions are also pulled to "
        "those of the source encoder on the other side",
    )
    teaching_weight: float = Field(1.0, gt=0, description="of that pull beside the masked loss")
    teaching_schedule: Literal["linear", "constant"] = Field(
        "constant", description="of that weight; linear: falls to 0 over the stage"
    )

    @model_validator(mode="after")
    def _shares_of_a_batch(self) -> JointStageConfig:
        if round(self.cross_lingual + self.taught, 9) > 1:
            raise ValueError(
                f"cross_lingual and taught are shares of a batch, expected at most 1 together, found "
                f"{self.cross_lingual + self.taught:g}; lower one"
            )
        return self


class StagesConfig(Section):
    """METHOD section 5: the stages that train (the combination is a mean of two of them); share 0 leaves one out."""

    commonality: StageConfig = StageConfig(share=20_000)
    transfer_joint: JointStageConfig = Field(
        JointStageConfig(share=0), description="both halves together, in place of the two stages of one half each"
    )
    transfer_upper: StageConfig = StageConfig(share=20_000)
    transfer_lower: StageConfig = StageConfig(share=20_000)
    language_specific: StageConfig = StageConfig(share=80_000)
    plain: StageConfig = Field(
        StageConfig(share=0), description="makes the result an ordinary model; share 0: it isn't"
    )
    scratch: StageConfig = StageConfig(share=1, learning_rate=1e-4)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the stages that a run has, as they are spelled elsewhere."""
        shares = {name: getattr(self, name).share for name in type(self).model_fields if name != "scratch"}
        return tuple(name.replace("_", "-") for name, share in shares.items() if share > 0)

    @property
    def orders(self) -> bool:
        """Whether a stage reorders states along word links (CdLM)."""
        joint = self.transfer_joint
        return self.transfer_upper.share + self.transfer_lower.share + joint.share * joint.cross_lingual > 0

    @property
    def teaches(self) -> bool:
        """Whether a stage's states are pulled to those of the source encoder."""
        return self.transfer_joint.share > 0 and self.transfer_joint.taught > 0

    @model_validator(mode="after")
    def _one_way_of_transfer(self) -> StagesConfig:
        if self.language_specific.share == 0:
            raise ValueError("language_specific.share: expected above 0, found 0; that stage makes the model")
        if self.transfer_joint.share > 0 and self.transfer_upper.share + self.transfer_lower.share > 0:
            raise ValueError(
                "expected one way of transfer, found two; give transfer_joint a share, or transfer_upper and "
                "transfer_lower, and the others 0"
            )
        return self


class TrainingConfig(Section):
    """What all stages share."""

    batch_tokens: int = Field(4096, ge=16, description="tokens of a batch, padding counted")
    max_length: int = Field(128, ge=8, description="tokens of a sequence, special ones counted; longer are cut")
    mask_rate: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="share of the tokens to be predicted, in held-out text and where a stage says none",
    )
    cross_lingual_labels: float = Field(
        1.0, gt=0, le=1, description="share of the positions that CdLM predicts, drawn anew each time; 1: as published"
    )
    stream_lines: int = Field(
        20_000, ge=1, description="lines of a stream that are held in memory and shuffled together, in each process"
    )
    source_share: float = Field(0.5, ge=0, le=1, description="source-language part of the commonality stage")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    epsilon: float = Field(1e-6, gt=0, description="of AdamW")
    gradient_clipping: float = Field(5.0, gt=0, description="largest norm of the gradient")
    hidden_dropout: float | None = Field(0.0, ge=0, lt=1, description="null: the encoder's own")
    attention_dropout: float | None = Field(
        0.0, ge=0, lt=1, description="null: the encoder's own; above 0: slow on CPUs"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: what the device does well")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    compile: bool = Field(False, description="compile the layers first (torch.compile): pays in long stages on GPUs")
    micro_batches: int = Field(
        1, ge=1, description="pieces that each batch is computed in, to save memory; doubled where it runs out"
    )
    sharding: Literal["none", "fsdp"] = Field(
        "none", description="under torchrun; fsdp: weights, gradients, optimiser state are split over the processes"
    )
    checkpoint_minutes: float = Field(2.0, gt=0, description="time between checkpoints of a stage")
    log_updates: int = Field(10, ge=1, description="updates between two points of a loss curve")
    patience: int | None = Field(
        None,
        ge=1,
        description="stages that train on target text alone are scored on corpus.development_lines, end after so many "
        "scores without a better one, and leave the weights of the best; null: they train as planned",
    )
    evaluate_updates: int = Field(100, ge=1, description="updates between two of these scores")


class DiagnosisConfig(Section):
    """What is looked at before anything trains; see `trelm diagnose`."""

    head_updates: int = Field(
        50, ge=0, description="of the head alone, after which masked prediction is scored again; 0: it is not"
    )


class BaselineConfig(Section):
    """The from-scratch model that the transferred one is compared with."""

    scratch: bool = Field(True, description="also train the same architecture from random weights, on an equal budget")


class CardConfig(Section):
    """What the model card says about licences; nothing that is computed depends on it."""

    license: str | None = Field(None, min_length=1, description="of the exported model; null: not stated")
    source_license: str | None = Field(
        None, min_length=1, description="of the encoder; null: what its own card states, if anything"
    )
    data_licenses: dict[str, str] = Field(
        {},
        description="licence by input, named exactly as under source.text, target.text or parallel (of two files "
        "either), or by evaluation set, by its name",
    )

    def license_of(self, *names: str) -> str | None:
        """The licence of an input, or None; of aligned files, the first that is named."""
        return next((self.data_licenses[name] for name in names if name in self.data_licenses), None)


class Config(Section):
    """Everything that a run depends on."""

    source: SourceConfig
    target: TargetConfig
    parallel: tuple[PairSource, ...] = Field(
        min_length=1, description="TSV, TMX, hf:// or {source: file, target: file}"
    )
    budget: BudgetConfig
    recipe: Literal["recommended", "paper", "quick"] = Field("recommended", description="values laid over the defaults")
    evaluation: tuple[EvaluationConfig, ...] = ()
    seed: int = Field(1, ge=0, le=10_000_000, description="fixes everything that is random")
    corpus: CorpusConfig = CorpusConfig()
    head: HeadConfig = HeadConfig()
    vocabulary: VocabularyConfig = VocabularyConfig()
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    word_links: WordLinksConfig = WordLinksConfig()
    model: ModelConfig = ModelConfig()
    stages: StagesConfig = StagesConfig()
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    training: TrainingConfig = TrainingConfig()
    baseline: BaselineConfig = BaselineConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _two_languages(self) -> Config:
        if self.source.language == self.target.language:
            raise ValueError(f"source.language and target.language are both '{self.source.language}'")
        require_distinct(self.evaluation)
        return self

    @model_validator(mode="after")
    def _models_are_chosen_on_development_lines(self) -> Config:
        corpus, training = self.corpus, self.training
        if 2 * corpus.development_lines > corpus.held_out_lines:
            raise ValueError(
                f"corpus.development_lines: expected at most {corpus.held_out_lines // 2:,}, half of "
                f"corpus.held_out_lines, found {corpus.development_lines:,}; lower it, or raise corpus.held_out_lines"
            )
        if training.patience is not None and not corpus.development_lines:
            raise ValueError(
                "training.patience: expected development lines to choose weights on, found none; set "
                "corpus.development_lines, or leave patience out"
            )
        if training.patience is not None and training.sharding != "none":
            raise ValueError(
                "training.patience: expected training.sharding none (a model that is split is not scored while it "
                f"trains), found {training.sharding}; leave one of the two out"
            )
        return self

    @model_validator(mode="after")
    def _limits_hold_for_all_text(self) -> Config:
        limits = [name for name in ("max_target_lines", "max_pairs") if getattr(self.corpus, name) is not None]
        if limits and self.target.stream:
            raise ValueError(
                f"corpus.{limits[0]}: expected no target.stream, whose text would train besides, found "
                f"'{self.target.stream[0]}'; leave one of the two out"
            )
        return self
