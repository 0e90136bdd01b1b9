"""Small files that would become huge: archives, XML, YAML, JSON. Lowered limits keep the bombs small."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
import zstandard

from trelm.config import load_config, override_values, read_yaml
from trelm.config import loading as config_loading
from trelm.corpus import files, parallel
from trelm.corpus.files import read_lines
from trelm.corpus.parallel import read_pairs
from trelm.errors import ConfigError, DataError, RunFolderError
from trelm.workspace import read_json

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
LINE = b"0" * 99 + b"\n"


@pytest.fixture
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREELY_UNPACKED", 1_000_000)
    monkeypatch.setattr(files, "GREATEST_RATIO", 100)
    monkeypatch.setattr(parallel, "LONGEST_UNIT", 100_000)


class TestArchives:
    @pytest.mark.parametrize("ending", PACKERS)
    def test_one_that_unpacks_to_far_more_than_it_is_is_refused(
        self, tmp_path: Path, ending: str, low_limits: None
    ) -> None:
        path = tmp_path / f"a.txt{ending}"
        path.write_bytes(PACKERS[ending](LINE * 60_000) * 2)  # 12 MB, in two parts
        assert path.stat().st_size * files.GREATEST_RATIO < 12_000_000
        numbers: list[int] = []
        with pytest.raises(
            DataError,
            match=r"line [\d,]+: expected an archive that unpacks to at most 100 times its size, .*; look into",
        ):
            numbers.extend(number for number, _ in read_lines(path))
        allowed = max(1_000_000, files.GREATEST_RATIO * path.stat().st_size)
        assert abs(len(numbers) * len(LINE) - allowed) < 200_000  # not before, nor much later

    @pytest.mark.parametrize("ending", PACKERS)
    def test_real_text_however_often_it_stands_there_is_read(
        self, tmp_path: Path, ending: str, low_limits: None
    ) -> None:
        dice = random.Random(1)
        text = "".join(f"{dice.random()} {dice.choice('abc') * 9}\n" for _ in range(5000)).encode() * 20
        path = tmp_path / f"a.txt{ending}"
        path.write_bytes(PACKERS[ending](text))
        assert sum(1 for _ in read_lines(path)) == 100_000
        assert len(text) > 2 * files.FREELY_UNPACKED

    def test_what_unpacks_to_little_may_be_as_small_as_it_likes(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt.bz2").write_bytes(bz2.compress(LINE * 500_000))  # 50 MB out of 100 bytes, below the limit
        assert sum(1 for _ in read_lines(tmp_path / "a.txt.bz2")) == 500_000

    def test_plain_text_has_no_limit(self, tmp_path: Path, low_limits: None) -> None:
        (tmp_path / "a.txt").write_bytes(LINE * 20_000)
        assert sum(1 for _ in read_lines(tmp_path / "a.txt")) == 20_000


UNIT = '<tu><tuv xml:lang="en"><seg>{}</seg></tuv><tuv xml:lang="id"><seg>satu</seg></tuv></tu>'
DAMAGE = {
    "an endless text": UNIT.format("x" * 500_000),
    "an endless attribute": UNIT.format("one").replace("<tu>", '<tu a="' + "x" * 500_000 + '">'),
    "an endless comment": "<!--" + "x" * 500_000 + "-->" + UNIT.format("one"),
    "a unit of many variants": UNIT.format("one").replace("</tu>", "<tuv lang='a'/>" * 40_000 + "</tu>"),
    "no unit at all": "<x/>" * 100_000,
}


class TestTmx:
    @pytest.mark.parametrize("body", DAMAGE.values(), ids=DAMAGE.keys())
    def test_what_would_be_kept_in_memory_is_bounded(self, tmp_path: Path, body: str, low_limits: None) -> None:
        path = tmp_path / "a.tmx"
        path.write_text(f"<tmx><body>{body}</body></tmx>")
        with pytest.raises(
            DataError, match="expected a translation unit at least every 100,000 bytes, found none; check"
        ):
            list(read_pairs(str(path), ("en", "id")))

    @pytest.mark.parametrize("where", ["inside a segment", "around the units"])
    def test_depth_is_bounded(self, tmp_path: Path, where: str) -> None:
        deep = "<hi>" * 200 + "one" + "</hi>" * 200
        body = UNIT.format(deep) if where == "inside a segment" else deep
        (tmp_path / "a.tmx").write_text(f"<tmx><body>{body}</body></tmx>")
        with pytest.raises(DataError, match="expected elements at most 100 deep, found more; check that it is a TMX"):
            list(read_pairs(str(tmp_path / "a.tmx"), ("en", "id")))

    def test_a_long_file_needs_no_more_memory_than_a_short_one(self, tmp_path: Path, low_limits: None) -> None:
        peaks = []
        for units in (1000, 10_000):
            path = tmp_path / f"{units}.tmx"
            path.write_text("<tmx><body>" + f"<x><y>{UNIT.format('one')}</y></x>" * units + "</body></tmx>")
            tracemalloc.start()
            assert sum(1 for _ in read_pairs(str(path), ("en", "id"))) == units
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.2 * peaks[0]

    def test_entities_are_refused(self, tmp_path: Path) -> None:
        laughs = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))
        (tmp_path / "a.tmx").write_text(f"<!DOCTYPE a [<!ENTITY l0 'ha'>{laughs}]><a>&l9;</a>")
        with pytest.raises(DataError, match="expected a plain TMX file, found one that declares entities"):
            list(read_pairs(str(tmp_path / "a.tmx"), ("en", "id")))


def laughs(join: str, levels: int = 12) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} " + join.format(", ".join([f"*a{n - 1}"] * 10)) for n in range(1, levels)]
    return "\n".join(lines)


YAML = {
    "aliases of aliases": (laughs("[{}]"), "more than 100,000 values"),
    "merges of merges": (laughs("{{<<: [{}]}}"), "more than 100,000 values"),
    "an alias inside what it names": ("a: &a [1, {b: *a}]", "an alias inside what it names"),
    "a key inside its own value": ("a: &a {? [*a] : 1}", "an alias inside what it names"),
    "depth": ("a: " + "[" * 60 + "]" * 60, "more than 40 levels"),
    "depth without end": ("[" * 100_000, "more than 40 levels"),
}


class TestYaml:
    @pytest.mark.parametrize(("text", "found"), YAML.values(), ids=YAML.keys())
    def test_it_is_refused_before_it_goes_off(self, tmp_path: Path, text: str, found: str) -> None:
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ConfigError, match=rf"a\.yaml.*: expected YAML, found {found}; mend the line"):
            load_config(tmp_path / "a.yaml")
        with pytest.raises(ConfigError, match=rf"expected a YAML value, found {found}; put it in quotes"):
            override_values({}, [f"seed={text}"])

    def test_a_file_that_is_too_long_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(config_loading, "LONGEST_FILE", 1000)
        (tmp_path / "a.yaml").write_text("# " + "x" * 2000)
        with pytest.raises(ConfigError, match=r"a\.yaml: expected YAML, found more than 1,000 characters"):
            read_yaml(tmp_path / "a.yaml")

    def test_honest_aliases_are_read(self, tmp_path: Path) -> None:
        text = "a: &a {x: 1, y: [2, 3]}\nb: [*a, *a]\nc: {<<: *a, z: 4}\n"
        (tmp_path / "a.yaml").write_text(text)
        assert read_yaml(tmp_path / "a.yaml") == yaml.safe_load(io.StringIO(text))

    @pytest.mark.parametrize("tag", ["python/object/apply:os.system [id]", "python/name:os.system", "python/tuple [1]"])
    def test_tags_that_make_objects_are_refused(self, tmp_path: Path, tag: str) -> None:
        (tmp_path / "a.yaml").write_text(f"seed: !!{tag}")
        with pytest.raises(
            ConfigError, match=r"a\.yaml, line 1: expected YAML, found could not determine a constructor"
        ):
            load_config(tmp_path / "a.yaml")

    def test_a_value_unlike_its_tag_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("target: {}\nseed: 2001-99-99\n")
        with pytest.raises(ConfigError, match="line 2: expected YAML, found '2001-99-99', which is no timestamp; mend"):
            load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_without_end_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(
        RunFolderError, match=r"a\.json: expected JSON, found maximum recursion depth exceeded.*; remove"
    ):
        read_json(tmp_path / "a.json")
