"""Parallel text."""

from __future__ import annotations

import gzip
from pathlib import Path

import datasets
import pytest

from trelm.corpus.parallel import read_pairs
from trelm.errors import DataError

LANGUAGES = ("en", "id")


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def tmx(*units: str, head: str = "", attributes: str = "") -> str:
    body = "".join(f"<tu>{unit}</tu>" for unit in units)
    return f'<?xml version="1.0"?>{head}<tmx version="1.4"{attributes}><header/><body>{body}</body></tmx>'


def variant(language: str, segment: str, attribute: str = "xml:lang") -> str:
    return f'<tuv {attribute}="{language}"><prop>no text</prop><seg>{segment}</seg></tuv>'


def test_tsv(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tsv", "one\tsatu\n\n\tkosong\ntwo\tdua\n")
    assert list(read_pairs(source, LANGUAGES)) == [("one", "satu"), ("", ""), ("", "kosong"), ("two", "dua")]


@pytest.mark.parametrize(("line", "found"), [("one", "1 column"), ("one\tsatu\t0.9", "3 columns")])
def test_tsv_with_other_columns_is_refused(tmp_path: Path, line: str, found: str) -> None:
    source = write(tmp_path / "a.tsv", f"one\tsatu\n{line}\n")
    with pytest.raises(DataError, match=rf"a\.tsv, line 2: expected 2 columns parted by a tab, found {found}; keep"):
        list(read_pairs(source, LANGUAGES))


def test_two_files_line_by_line(tmp_path: Path) -> None:
    write(tmp_path / "a.en", "one\n"), write(tmp_path / "b.en", "\nthree\n")
    target = write(tmp_path / "all.id", "satu\ndua\ntiga\n")
    pairs = [("one", "satu"), ("", "dua"), ("three", "tiga")]
    assert list(read_pairs((f"{tmp_path}/*.en", target), LANGUAGES)) == pairs


@pytest.mark.parametrize("texts", [("1\n2\n3\n", "1\n"), ("1\n", "1\n2\n3\n")])
def test_two_files_of_different_lengths_are_refused(tmp_path: Path, texts: tuple[str, str]) -> None:
    names = write(tmp_path / "a.en", texts[0]), write(tmp_path / "a.id", texts[1])
    counts = [text.count("\n") for text in texts]
    expected = rf"a\.en: expected as many lines as in .*a\.id \({counts[1]}\), found {counts[0]}; give two files"
    with pytest.raises(DataError, match=expected):
        list(read_pairs(names, LANGUAGES))


def test_tmx_languages_codes_and_missing_sides(tmp_path: Path) -> None:
    units = (
        variant("ID-id", "satu") + variant("en_GB", "one") + variant("en-US", "uno"),
        variant("EN", "two", "lang") + variant("fr", "deux"),
        variant("en", 'a <bpt i="1">&lt;b&gt;</bpt><hi>bold</hi><ept i="1">x</ept> &amp; b<ph/>!') + variant("id", ""),
    )
    (tmp_path / "a.tmx.gz").write_bytes(gzip.compress(tmx(*units).encode()))
    pairs = [("one", "satu"), ("two", ""), ("a bold & b!", "")]
    assert list(read_pairs(str(tmp_path / "a.tmx.gz"), LANGUAGES)) == pairs


def test_tmx_with_a_document_type_a_namespace_and_utf16(tmp_path: Path) -> None:
    text = tmx(
        variant("en", "one") + variant("id", "satu"),
        head='<!DOCTYPE tmx SYSTEM "tmx14.dtd">',
        attributes=' xmlns="http://www.lisa.org/tmx14"',
    ).replace('version="1.0"', 'version="1.0" encoding="UTF-16"', 1)
    (tmp_path / "a.tmx").write_bytes(text.encode("utf-16"))
    assert list(read_pairs(str(tmp_path / "a.tmx"), LANGUAGES)) == [("one", "satu")]


def test_tmx_of_two_variants_of_one_language_is_told_apart_by_whole_tags(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tmx", tmx(variant("zh_TW", "東") + variant("zh-CN", "东")))
    assert list(read_pairs(source, ("zh-CN", "zh-TW"))) == [("东", "東")]


def test_tmx_without_the_languages_names_those_it_has(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tmx", tmx(variant("en", "one") + variant("fr-FR", "un"), variant("id", "satu")))
    with pytest.raises(DataError, match="expected translation units in en and id, found en, fr-FR, id; check the lang"):
        list(read_pairs(source, LANGUAGES))
    with pytest.raises(DataError, match="found no language at all"):
        list(read_pairs(write(tmp_path / "b.tmx", tmx()), LANGUAGES))


def test_tmx_that_is_not_xml_is_told_with_its_line(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tmx", tmx(variant("en", "one") + variant("id", "satu")) + "\n<oops")
    with pytest.raises(DataError, match="line 2: expected well-formed XML, found an error"):
        list(read_pairs(source, LANGUAGES))


def test_tmx_with_entities_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE tmx [<!ENTITY a "aaaa">]>'
    source = write(tmp_path / "a.tmx", tmx(variant("en", "&a;"), head=bomb))
    with pytest.raises(
        DataError, match=r"expected a plain TMX file, found one that declares entities \(EntitiesForbid"
    ):
        list(read_pairs(source, LANGUAGES))


def test_data_set_with_two_columns(tmp_path: Path) -> None:
    rows = {"translation": [{"en": "one", "id": "satu"}, {"en": "two", "id": None}]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    pairs = list(read_pairs(f"hf://{tmp_path}/saved#translation.en,translation.id", LANGUAGES))
    assert pairs == [("one", "satu"), ("two", "")]
