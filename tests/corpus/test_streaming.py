"""Streams of lines, offline, from folders of many shards: every line once an epoch, whoever reads and resumes it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm.corpus import hub, streaming
from trelm.corpus.cleaning import fingerprint
from trelm.corpus.streaming import StreamedLines, shares_shards
from trelm.errors import DataError

SHARDS = 16
SIZES = [30 + 7 * shard % 23 for shard in range(SHARDS)]
LINES = [f"line number {number}" for number in range(sum(SIZES))]


def shards(sizes: list[int] = SIZES) -> Iterator[list[str]]:
    lines = iter(LINES)
    for size in sizes:
        yield list(islice(lines, size))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The names of the same lines, numbered through 16 shards of unlike sizes, in two formats."""
    root = tmp_path_factory.mktemp("shards")
    for kind in ("jsonl", "parquet"):
        (root / kind).mkdir()
    for number, lines in enumerate(shards()):
        name = f"train-{number:05}-of-{SHARDS:05}"
        (root / "jsonl" / f"{name}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        table = pyarrow.table({"number": list(range(len(lines))), "text": lines})
        pyarrow.parquet.write_table(table, root / "parquet" / f"{name}.parquet", row_group_size=10)
    return {kind: f"hf://{root}/{kind}/train" for kind in ("jsonl", "parquet")}


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> str:
    """The name of a data set of one shard."""
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"hf://{folder}/train"


def stream(
    *names: str, rank: int = 0, world: int = 1, seed: int = 1, block_lines: int = 50, **more: Any
) -> StreamedLines:
    values = {"min_characters": 2, "max_characters": 100, **more}
    return StreamedLines(names, rank=rank, world=world, seed=seed, block_lines=block_lines, **values)


def epoch(lines: StreamedLines, number: int = 0) -> list[list[str]]:
    """The blocks of an epoch, read from where `lines` is until the next one begins; `lines` stays at its end."""
    blocks = []
    while True:
        before = lines.position()
        block = lines.next_block()
        if lines.position()["epoch"] > number:
            lines.restore(before)
            return blocks
        blocks.append(block)


def joined(blocks: list[list[str]]) -> list[str]:
    return [line for block in blocks for line in block]


@pytest.mark.parametrize(
    ("kind", "world"),
    [("jsonl", 1), ("jsonl", 2), ("jsonl", 5), ("parquet", 2), ("parquet", 3), ("parquet", 16)],
)
def test_of_an_epoch_every_line_is_given_once(folders: dict[str, str], kind: str, world: int) -> None:
    parts = [joined(epoch(stream(folders[kind], rank=rank, world=world))) for rank in range(world)]
    assert Counter(joined(parts)) == Counter(LINES)
    assert all(parts)


def test_more_processes_than_shards_share_the_rows_out(tmp_path: Path) -> None:
    name = write_rows(tmp_path / "one", [{"text": line} for line in LINES[:23]])
    parts = [joined(epoch(stream(name, rank=rank, world=5))) for rank in range(5)]
    assert sorted(map(len, parts)) == [4, 4, 5, 5, 5]
    assert sorted(joined(parts)) == sorted(LINES[:23])


def test_two_processes_read_every_line_once_in_each_of_three_epochs_always_in_another_order(
    folders: dict[str, str],
) -> None:
    both = [stream(folders["parquet"], rank=rank, world=2) for rank in range(2)]
    epochs = [[joined(epoch(lines, number)) for lines in both] for number in range(3)]
    assert [Counter(joined(parts)) for parts in epochs] == [Counter(LINES)] * 3
    assert len({tuple(parts[0]) for parts in epochs}) == 3
    assert len({frozenset(parts[0]) for parts in epochs}) == 3, "other shards"
    assert joined(epochs[0]) != LINES


def test_blocks_are_bounded_and_shuffled_and_depend_on_the_seed(folders: dict[str, str]) -> None:
    blocks = epoch(stream(folders["jsonl"]))
    assert [len(block) for block in blocks[:-1]] == [50] * (len(blocks) - 1)
    assert 0 < len(blocks[-1]) <= 50
    assert all(block != sorted(block, key=LINES.index) for block in blocks)
    assert blocks == epoch(stream(folders["jsonl"]))
    assert blocks != epoch(stream(folders["jsonl"], seed=2))


def test_an_epoch_that_ends_with_a_full_block_gives_no_empty_one(tmp_path: Path) -> None:
    lines = stream(write_rows(tmp_path / "ten", [{"text": line} for line in LINES[:10]]), block_lines=5)
    sizes = [len(lines.next_block()) for _ in range(5)]
    assert sizes == [5] * 5


@settings(max_examples=6, deadline=None)
@given(
    kind=st.sampled_from(["jsonl", "parquet"]),
    world=st.sampled_from([1, 2, 3]),
    chunk=st.sampled_from([1, 7, 256]),
    block_lines=st.sampled_from([37, 97, 1000]),
    data=st.data(),
)
def test_a_resumed_stream_gives_the_same_blocks(
    folders: dict[str, str], kind: str, world: int, chunk: int, block_lines: int, data: st.DataObject
) -> None:
    streaming._CHUNK, before = chunk, streaming._CHUNK
    try:
        rank = data.draw(st.integers(0, world - 1))
        most = len(LINES) // world // block_lines + 3  # into the second epoch
        stop = data.draw(st.integers(0, most))
        whole = stream(folders[kind], rank=rank, world=world, block_lines=block_lines)
        blocks, positions = [], []
        for _ in range(most + 2):
            positions.append(json.dumps(whole.position()))
            blocks.append(whole.next_block())
        resumed = stream(folders[kind], rank=rank, world=world, block_lines=block_lines)
        resumed.restore(json.loads(positions[stop]))
        assert [resumed.next_block() for _ in blocks[stop:]] == blocks[stop:]
        assert resumed.counts == whole.counts
        assert max(map(len, positions)) < 1500
    finally:
        streaming._CHUNK = before


def test_a_stream_goes_back_after_any_number_of_blocks(folders: dict[str, str]) -> None:
    lines = stream(folders["parquet"])
    start = lines.position()
    first = [lines.next_block() for _ in range(20)]
    lines.restore(start)
    assert [lines.next_block() for _ in range(20)] == first
    assert lines.counts["rows"] == sum(map(len, first))


def test_memory_is_bounded_by_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows there are, no more than a block and a chunk are alive."""
    alive, most = 0, 0

    class Row(dict[str, Any]):
        def __init__(self, *values: Any) -> None:
            nonlocal alive, most
            super().__init__(*values)
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    class Endless:
        num_shards = 1

        def iter(self, size: int) -> Iterator[dict[str, list[str]]]:
            for number in range(10_000):
                yield {"text": [f"line {number} {row}" for row in range(size)]}

        def set_epoch(self, number: int) -> None: ...

        def state_dict(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(hub, "load", lambda *_: Endless())
    monkeypatch.setattr(streaming, "split_dataset_by_node", lambda whole, *_, **__: whole)
    monkeypatch.setattr(streaming, "dict", Row, raising=False)
    lines = stream("hf://some/where/train", block_lines=1000)
    for _ in range(20):
        assert len(lines.next_block()) == 1000
    assert most <= 2 * streaming._CHUNK


def test_held_out_lines_never_come_and_every_drop_is_counted(tmp_path: Path) -> None:
    texts = ["Kept one.", "x", None, "held  OUT\nkept two", "y" * 101, "  kept\u200b   three ", "evaluated!", "\n\n"]
    name = write_rows(tmp_path / "rows", [{"text": text} for text in texts])
    dropped = {fingerprint("Held out."), fingerprint("evaluated")}
    lines = stream(name, dropped=dropped)
    assert sorted(lines.next_block()) == ["Kept one.", "kept three", "kept two"]
    assert lines.counts == {"rows": 8, "kept": 3, "too_short": 1, "too_long": 1, "held_out": 2, "empty": 2}


def test_several_data_sets_take_turns_and_each_is_read_to_its_end(folders: dict[str, str], tmp_path: Path) -> None:
    few = [f"another {number}" for number in range(20)]
    name = write_rows(tmp_path / "few", [{"body": {"en": line}} for line in few]) + "#body.en"
    blocks = epoch(stream(folders["jsonl"], name))
    assert Counter(joined(blocks)) == Counter([*LINES, *few])
    assert sum(line.startswith("another") for line in blocks[0]) == 20
    assert sum(line.startswith("line") for line in blocks[0]) == 30


@pytest.mark.parametrize("world", [1, 3])
def test_saved_data_sets_are_cut_into_shards(tmp_path: Path, world: int) -> None:
    datasets.Dataset.from_dict({"text": LINES}).save_to_disk(tmp_path / "saved")
    name = f"hf://{tmp_path}/saved#text"
    parts = [joined(epoch(stream(name, rank=rank, world=world, block_lines=1000))) for rank in range(world)]
    assert Counter(joined(parts)) == Counter(LINES)
    assert stream(name, world=world).shards() == {name: (16 * world, True)}


def test_a_saved_data_set_of_few_rows(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": LINES[:3]}).save_to_disk(tmp_path / "saved")
    parts = [joined(epoch(stream(f"hf://{tmp_path}/saved#text", rank=rank, world=2))) for rank in range(2)]
    assert sorted(joined(parts)) == LINES[:3]


@pytest.mark.parametrize(
    ("count", "world", "shared"), [(16, 2, True), (16, 3, False), (24, 3, True), (25, 3, True), (1, 2, False)]
)
def test_shards_are_shared_out_where_that_is_nearly_even(count: int, world: int, shared: bool) -> None:
    assert shares_shards(count, world) == shared


class BrokenError(Exception):
    """As of a library of the network."""

    __module__ = "httpx._exceptions"


def break_after(monkeypatch: pytest.MonkeyPatch, rows: int, times: int, error: Exception) -> None:
    """Let the reader fail at its first row after `rows` of them, `times` times."""
    given, left, take = 0, times, streaming._Reader.__next__

    def fail(reader: streaming._Reader) -> dict[str, Any]:
        nonlocal given, left
        if given >= rows and left:
            left -= 1
            raise error
        given += 1
        return take(reader)

    monkeypatch.setattr(streaming._Reader, "__next__", fail)


@pytest.mark.parametrize("error", [ConnectionError("Server Disconnected"), BrokenError("gone"), OSError("I/O")])
def test_a_broken_connection_is_read_again_after_growing_waits(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    whole = epoch(stream(folders["jsonl"]))
    break_after(monkeypatch, 120, 3, error)
    waited: list[float] = []
    lines = stream(folders["jsonl"], sleep=waited.append)
    assert epoch(lines) == whole
    assert waited == list(streaming.RETRY_SECONDS)
    assert sorted(waited) == waited


def test_a_connection_that_stays_broken_is_told_of_and_the_stream_is_where_it_was(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = epoch(stream(folders["jsonl"]))
    break_after(monkeypatch, 120, 4, ConnectionError("Server Disconnected\nmore"))
    lines = stream(folders["jsonl"], sleep=lambda _: None)
    blocks = [lines.next_block(), lines.next_block()]
    with pytest.raises(DataError, match=r"expected a readable data set, found an error \(Server Disconnected\); check"):
        lines.next_block()
    assert [*blocks, *epoch(lines)] == whole


@pytest.mark.parametrize(("rows", "error"), [(0, ConnectionError("no route")), (120, ValueError("bad row"))])
def test_what_waiting_does_not_mend_is_told_at_once(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, rows: int, error: Exception
) -> None:
    break_after(monkeypatch, rows, 99, error)
    waited: list[float] = []
    lines = stream(folders["jsonl"], sleep=waited.append)
    with pytest.raises(DataError, match=rf"found an error \({error}\)"):
        epoch(lines)
    assert waited == []


def test_names_and_columns_that_are_not_there(folders: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected one column, found 2 \(a, b\)"):
        stream("hf://some/where/train#a,b")
    with pytest.raises(DataError, match=r"expected hf://dataset/split#column .* found a part missing"):
        stream("hf://train")
    with pytest.raises(DataError, match=r"expected the name of a column, found 'txt' .*; did you mean 'text'\?"):
        stream(folders["jsonl"] + "#txt").next_block()
    with pytest.raises(DataError, match="expected text in the column 'number', found int in row 1"):
        stream(folders["parquet"] + "#number").next_block()
    with pytest.raises(DataError, match=r"expected a folder, found no .*/none; check the path"):
        stream(f"hf://{tmp_path}/none/train").next_block()


def test_a_stream_without_lines(tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    datasets.Dataset.from_dict({"text": []}).to_parquet(tmp_path / "parquet" / "train.parquet")
    with pytest.raises(DataError, match="parquet/train: expected rows, found none; check the split"):
        stream(f"hf://{tmp_path}/parquet/train").next_block()
    short = write_rows(tmp_path / "short", [{"text": "x"}, {"text": ""}, {"text": "y\nz"}])
    expected = r"expected lines to train on, found none: all lines of 3 rows were dropped \(too_short 3\)"
    with pytest.raises(DataError, match=expected):
        stream(short).next_block()
    one = write_rows(tmp_path / "one", [{"text": "all that there is"}])
    with pytest.raises(DataError, match="expected rows for each process, found none in the part 2 of 2; start fewer"):
        stream(one, rank=1, world=2).next_block()


def test_a_position_of_another_process_is_refused(folders: dict[str, str]) -> None:
    position = stream(folders["jsonl"], rank=1, world=2).position()
    expected = "expected a position in the part 1 of 3, found a position in the part 2 of 2; resume with as many"
    with pytest.raises(DataError, match=expected):
        stream(folders["jsonl"], rank=0, world=3).restore(position)
