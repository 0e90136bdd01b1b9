"""What aligned-state distillation needs: which tokens of the source encoder each target token is linked to."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import tee
from pathlib import Path

import numpy as np

from trelm.corpus.ragged import Ragged, written
from trelm.steps.context import WORD_LINKS, Context, Figures, vocabulary_of
from trelm.training.teaching import Teacher, Teaching
from trelm.vocabulary import encoded_with_characters
from trelm.word_links.spans import NO_LINK, linked_spans

READ, STARTS, ENDS = "teacher-read", "teacher-starts", "teacher-ends"


def write_teaching(context: Context, folder: Path, sentences: Iterable[str]) -> Figures:
    """Write the pairs' source side as the source encoder's own tokens, and the spans of them that each target token is
    linked to.

    Args:
        folder: where the links of the pairs lie, and where the files go. sentences: the pairs' source side.
    """
    links = Ragged.load(folder, "source-of-target")
    tokenizers = (context.tokenizer, context.pretrained.tokenizer)
    own, others = (encoded_with_characters(one, lines) for one, lines in zip(tokenizers, tee(sentences)))
    linked = taught = 0
    with ExitStack() as stack:
        read, *spans = (stack.enter_context(written(folder, name)) for name in (READ, STARTS, ENDS))
        for number, ((_, characters), (ids, its)) in enumerate(zip(own, others)):
            both = linked_spans(links[number], characters, its)
            read.append(ids, np.array([len(ids)]))
            for writer, span in zip(spans, both):
                writer.append(span, np.array([len(span)]))
            linked += int((links[number] != NO_LINK).sum())
            taught += int((both[0] != NO_LINK).sum())
    return {"teacher_tokens": read.tokens, "linked_positions": linked, "taught_positions": taught}


def load_teaching(context: Context) -> Teaching | None:
    """What the word-links step wrote for a teacher; None where no stage has one."""
    if not context.config.stages.teaches:
        return None
    read, starts, ends = (Ragged.load(context.folder(WORD_LINKS), name) for name in (READ, STARTS, ENDS))
    return Teaching(read, starts, ends, vocabulary_of(context.pretrained.tokenizer))


def teacher_of(context: Context) -> Teacher:
    """The source encoder as it was published, and the states that it teaches: below the TRILayer, and the last."""
    encoder = context.pretrained
    middle = encoder.config.num_hidden_layers // 2
    model = encoder.backbone.train(False).requires_grad_(False)
    joint = context.config.stages.transfer_joint
    return Teacher(model, ((middle, middle), (-1, -1)), joint.teaching_weight, joint.teaching_schedule == "linear")
