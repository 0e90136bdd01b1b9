from __future__ import annotations

import errno
import string
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm.config import make_config
from trelm.demo import language as demo
from trelm.demo.language import (
    Transformed,
    demo_values,
    english_sentences,
    is_prose,
    respell,
    transform,
    write_demo_data,
)
from trelm.errors import DiskError

FILES = ["dictionary.tsv", "parallel-links.tsv", "parallel.tsv", "source.txt", "target.txt"]

letters = st.text(string.ascii_lowercase, min_size=1, max_size=12)
words_of_english = st.sampled_from([
    "The", "of", "the", "a", "in", "to", "be", "if", "when", "which", "without", "default", "string", "user's", "API",
    "e.g.", "open_ftp", "I", "is", "can", "42", ",", ";", "(", ")", "file",
])  # fmt: skip


@cache
def sentences() -> list[str]:
    return english_sentences()


def linked_words(made: Transformed) -> set[tuple[str, str]]:
    return {(made.words_source[i], made.words_target[j]) for i, j in made.links}


class TestWords:
    @settings(deadline=None)
    @given(st.lists(letters, unique=True, min_size=2, max_size=50), st.integers(0, 3))
    def test_two_words_never_become_one(self, words: list[str], seed: int) -> None:
        assert len({respell(word, seed=seed) for word in words}) == len(words)

    def test_words_that_differ_in_their_ending_alone_stay_apart(self) -> None:
        stems = ["walk", "play", "stri", "nation", "a", "be"]
        words = [stem + ending for stem in stems for ending in ("", *demo.ENDINGS)]
        assert len({respell(word) for word in words}) == len(words)

    @settings(deadline=None)
    @given(letters, st.integers(0, 3))
    def test_no_letter_of_a_stem_stays(self, word: str, seed: int) -> None:
        made = respell(word, seed=seed)
        assert all(before != after for before, after in zip(word, made))

    @settings(deadline=None)
    @given(letters)
    def test_vowels_become_vowels_and_consonants_consonants(self, word: str) -> None:
        made = respell(word).partition("ö")[0]
        kinds = [after in demo.TARGET_VOWELS for after in made]
        assert kinds == [before in demo.SOURCE_VOWELS for before in word[: len(made)]]

    def test_beginnings_and_endings_are_shared(self) -> None:
        assert respell("transform")[:9] == respell("transforming")[:9] == respell("transformed")[:9]
        assert respell("walking").endswith("ön")
        assert respell("talking").endswith("ön")
        assert respell("walking") == respell("walk") + "ön"

    @pytest.mark.parametrize("token", ["42", "3.11", "open_ftp", "sys.path", "TypeError", ",", "utf8"])
    def test_numbers_and_identifiers_stay(self, token: str) -> None:
        assert respell(token) == token

    def test_the_seed_changes_the_language(self) -> None:
        assert respell("language", seed=1) != respell("language", seed=2)


class TestTransform:
    def test_clauses_come_in_reverse_with_the_auxiliary_last_and_a_particle(self) -> None:
        made = transform("Files are read, if you want.")
        files, are, read, condition, you, want = (respell(w) for w in ("files", "are", "read", "if", "you", "want"))
        assert made.words_source == ("Files", "are", "read", ",", "if", "you", "want", ".")
        assert made.words_target == (condition.title(), you, want, "nö", ",", files, read, are, ".")
        assert made.text == f"{condition.title()} {you} {want} nö, {files} {read} {are}."
        assert made.links == {(0, 5), (1, 7), (2, 6), (3, 4), (4, 0), (5, 1), (6, 2), (7, 8)}

    def test_pairs_fuse_and_articles_vanish(self) -> None:
        made = transform("Names of the files with an error")
        assert made.words_target == (
            respell("names").title(),
            respell("ofthe"),
            respell("files"),
            respell("with"),
            respell("error"),
        )
        assert made.links == {(0, 0), (1, 1), (2, 1), (3, 2), (4, 3), (6, 4)}

    def test_a_word_becomes_a_phrase_of_two(self) -> None:
        made = transform("Go without me")
        assert made.words_target == (respell("go").title(), respell("not"), respell("with"), respell("me"))
        assert made.links == {(0, 0), (1, 1), (1, 2), (2, 3)}

    def test_brackets_and_quotes_are_kept_whole(self) -> None:
        made = transform('We say "yes, if" here (you know, it was so) that')
        inner = f"({respell('you')} {respell('know')}, {respell('it')} {respell('was')} {respell('so')})"
        assert f'"{respell("yes")}, {respell("if")}"' in made.text
        assert inner in made.text

    def test_case_follows_the_source(self) -> None:
        made = transform("Ask Python or an API if I open TypeError.")
        pairs = linked_words(made)
        assert ("Python", respell("python").title()) in pairs
        assert ("API", respell("api").upper()) in pairs
        assert ("TypeError", "TypeError") in pairs
        assert ("I", respell("i")) in pairs
        assert ("Ask", respell("ask")) in pairs

    def test_a_fused_first_word_moves_without_its_capital(self) -> None:
        made = transform("It is here if needed.")
        assert respell("itis") in made.words_target
        assert made.words_target[0] == respell("if").title()

    def test_an_identifier_gets_no_capital(self) -> None:
        assert transform("See this, open_ftp helps.").text.startswith("open_ftp ")

    @pytest.mark.parametrize("text", ["", "...", ",", "the", "("])
    def test_sentences_of_no_words(self, text: str) -> None:
        made = transform(text)
        assert len(made.links) == len(made.words_target)

    @settings(deadline=None)
    @given(st.lists(words_of_english, max_size=25))
    def test_every_word_is_linked_or_known(self, words: list[str]) -> None:
        made = transform(" ".join(words))
        linked_source, linked_target = {i for i, _ in made.links}, {j for _, j in made.links}
        for i, word in enumerate(made.words_source):
            assert i in linked_source or word.lower() in demo.ARTICLES
        for j, word in enumerate(made.words_target):
            assert (j in linked_target) == (word != demo.PARTICLE)
        assert made.text.replace(" ", "") == "".join(made.words_target)

    @settings(deadline=None)
    @given(st.lists(words_of_english, max_size=25))
    def test_a_word_alone_in_its_link_is_its_respelling(self, words: list[str]) -> None:
        made = transform(" ".join(words))
        for i, j in made.links:
            alone = sum(a == i for a, _ in made.links) == 1 == sum(b == j for _, b in made.links)
            if alone:
                assert made.words_target[j].lower() == respell(made.words_source[i].lower()).lower()


class TestSentences:
    def test_there_are_enough_and_none_twice(self) -> None:
        found = sentences()
        assert len(found) > 8_000
        assert len({sentence.casefold() for sentence in found}) == len(found)
        assert all(is_prose(sentence) for sentence in found[:1000])

    @pytest.mark.parametrize(
        "line",
        [
            "Too short is this.",
            "no capital at the beginning of the line, which is wrong.",
            "This line does not end as a sentence that is whole",
            "Call the function run(x) when it is time to do so.",
            "The result is x = 3 if it is what you want it to be.",
            "Usage is --help or -h for all of the options in this.",
            "Reader Writer Locker Opener Closer Sender Helper.",
            "The 'quoted part is open and so this is refused.",
        ],
    )
    def test_what_is_not_prose(self, line: str) -> None:
        assert not is_prose(line)

    def test_markup_goes(self) -> None:
        text = (
            "Use ``open`` or :func:`close` on *this* file,\nwhich you have. Then it is 'done' and over:\n\n   >>> 1\n"
        )
        found = list(demo._split_sentences(text))
        assert found[:2] == ["Use open or close on this file, which you have.", "Then it is done and over:"]

    def test_docstrings_and_comments_are_found_and_damaged_modules_are_not(self) -> None:
        code = b'"""Top."""\n# One\n# two.\nif True:\n    def f():\n        """Inner."""\n'
        assert [text.strip() for text in demo._texts_of_module(code) if text] == ["Top.", "Inner.", "One\ntwo."]
        assert list(demo._texts_of_module(b"def (:")) == []
        assert list(demo._texts_of_module(b"x = '\xff'")) == []


class TestFiles:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("demo")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo, "english_sentences", lambda: sentences()[:3000])
            counts = write_demo_data(folder)
            assert counts["sentences"] == 3000
            assert (counts["source"], counts["target"], counts["parallel"]) == (1200, 1050, 750)
        return folder

    def test_every_file_is_there_and_nothing_else(self, folder: Path) -> None:
        assert sorted(path.name for path in folder.iterdir()) == FILES

    def test_parts_share_no_sentence_and_hold_them_all(self, folder: Path) -> None:
        mono = set((folder / "source.txt").read_text().splitlines())
        sides = [line.split("\t") for line in (folder / "parallel.tsv").read_text(encoding="utf-8").splitlines()]
        target = set((folder / "target.txt").read_text(encoding="utf-8").splitlines())
        assert mono.isdisjoint(side[0] for side in sides)
        assert target.isdisjoint(side[1] for side in sides)
        left = set(sentences()[:3000]) - mono - {side[0] for side in sides}
        assert {transform(sentence).text for sentence in left} == target

    def test_the_truth_is_that_of_the_pairs(self, folder: Path) -> None:
        pairs = (folder / "parallel.tsv").read_text(encoding="utf-8").splitlines()
        truth = (folder / "parallel-links.tsv").read_text(encoding="utf-8").splitlines()
        assert len(pairs) == len(truth)
        for pair, line in zip(pairs, truth):
            source, target, links = line.split("\t")
            made = transform(pair.split("\t")[0])
            assert pair.split("\t")[1] == made.text
            assert (tuple(source.split()), tuple(target.split())) == (made.words_source, made.words_target)
            assert {tuple(map(int, link.split("-"))) for link in links.split()} == made.links

    def test_no_english_is_left_over(self, folder: Path) -> None:
        for line in (folder / "parallel-links.tsv").read_text(encoding="utf-8").splitlines():
            source, target, links = (part.split() for part in line.split("\t"))
            for i, j in (map(int, link.split("-")) for link in links):
                same = source[i].lower() == target[j].lower()
                assert same != demo._is_word(source[i])

    def test_the_dictionary_is_one_to_one(self, folder: Path) -> None:
        rows = [line.split("\t") for line in (folder / "dictionary.tsv").read_text(encoding="utf-8").splitlines()]
        assert len({row[0] for row in rows}) == len({row[1] for row in rows}) == len(rows) > 500
        assert all(respell(english) == made for english, made in rows)
        assert not {row[0] for row in rows} & ({"the", "a", "an"} | set(demo.ONE_TO_MANY))

    def test_the_same_seed_writes_the_same_files(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(demo, "english_sentences", lambda: sentences()[:200])
        for name, seed in (("first", 7), ("again", 7), ("other", 8)):
            respell.cache_clear()
            write_demo_data(tmp_path / name, seed=seed)
        for file in FILES:
            first = (tmp_path / "first" / file).read_bytes()
            assert first == (tmp_path / "again" / file).read_bytes() != (tmp_path / "other" / file).read_bytes()

    def test_a_folder_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(demo, "english_sentences", lambda: sentences()[:20])
        monkeypatch.setattr("trelm.workspace.os.replace", refuse)
        with pytest.raises(DiskError, match="cannot be written"):
            write_demo_data(tmp_path)

    def test_the_configuration_is_valid(self, folder: Path) -> None:
        config = make_config(demo_values(folder))
        assert config.recipe == "quick"
        assert (config.source.language, config.target.language, config.budget.minutes) == ("en", "xx", 6)
        paths = [*config.source.text, *config.target.text, *map(str, config.parallel), *config.evaluation[0].test]
        assert all(Path(path).is_file() and Path(path).is_absolute() for path in paths)
