"""Inputs that somebody made up to break a reader: examples that were harmed, and things that no honest file holds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Harm = Callable[[bytes, random.Random], bytes]

MARKS = (
    b"\x00",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\r",
    b"\n",
    b"\n\n",
    b"\t",
    b"\x1b[2J",
    b"\xe2\x80\xa8",
    b"\xe2\x80\xae",
    b"\\ud800",
    b"\\u0000",
    b'"',
    b"'",
    b"<",
    b">",
    b"&",
    b"|",
    b"`",
    b"#",
    b"%",
    b"..",
    b"../../../etc/passwd",
    b"/",
    b"~",
    b"${HOME}",
    b"*",
    b"[",
    b"]",
    b"{",
    b"}",
    b":",
    b",",
    b"-",
    b"_",
    b"=",
    b"@",
    b"!",
)
NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"9" * 5000,
    b"-" + b"9" * 400,
    b"1e999",
    b"-1e999",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b".inf",
    b"0x" + b"f" * 300,
    b"1_000",
    b"4294967296",
    b"9223372036854775808",
    b"1e-400",
    b"0.1",
    b"\xd9\xa3",
    b"\xc2\xb2",
    b"190:20:30",
    b"2001-99-99",
    b"2001-01-01",
    b"null",
    b"true",
    b"~",
)
STRUCTURES = (
    b"[" * 3000,
    b'{"a":' * 3000,
    b"[" * 900 + b"]" * 900,
    b"- " * 2000,
    b"a: {" * 900,
    b"<tu>" * 5000,
    b'{"x": [' * 400 + b"]}" * 400,
    b"&a [*a, *a]",
    b"!!python/object/apply:os.system [id]",
    b"!!python/name:os.system",
    b"!!timestamp 2001-99-99",
    b"!!binary '%%'",
    b"!!set {a, b}",
    b"!!omap [a: 1]",
    b"!!int 'x'",
    b"!!float 'x'",
    b"<<: *a",
    b"<<: 3",
    b"? [1, 2]\n: x",
    b"? {a: 1}\n: x",
    b"&a {<<: *a}",
    b"%YAML 9.9\n---\n",
    b"---\n---\n",
    b"!!null x",
    b'<!DOCTYPE a [<!ENTITY b "c">]>',
    b"<?xml version='1.0' encoding='utf-16'?>",
    b"<![CDATA[",
    b"<!--",
    b"<a xmlns:b='' b:c=''/>",
    b'{"a": 1, "a": 2}',
    b'"' + b"k" * 20000 + b'": 1',
    b"[null]",
    b"{}",
    b"[]",
    b'""',
    b'"\\ud800"',
    b'{"__class__": 1}',
    b'{"auto_map": {"AutoModel": "x.Y"}}',
)


def random_bytes(data: bytes, dice: random.Random) -> bytes:
    return dice.randbytes(dice.choice((0, 1, 2, 7, 64, 1000)))


def flip_bits(data: bytes, dice: random.Random) -> bytes:
    harmed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8, 40))):
        if harmed:
            harmed[dice.randrange(len(harmed))] ^= 1 << dice.randrange(8)
    return bytes(harmed)


def cut_short(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def take_out(data: bytes, dice: random.Random) -> bytes:
    start, end = _span(data, dice)
    return data[:start] + data[end:]


def repeat_part(data: bytes, dice: random.Random) -> bytes:
    start, end = _span(data, dice)
    return data[:end] + data[start:end] * dice.choice((1, 2, 50)) + data[end:]


def swap_parts(data: bytes, dice: random.Random) -> bytes:
    start, end = _span(data, dice)
    other, last = _span(data, dice)
    return data[:start] + data[other:last] + data[end:]


def put_in(things: Sequence[bytes]) -> Harm:
    def harm(data: bytes, dice: random.Random) -> bytes:
        place = dice.randrange(len(data) + 1)
        return data[:place] + dice.choice(things) + data[place:]

    return harm


def replace_word(things: Sequence[bytes]) -> Harm:
    """A run of letters, digits or quoted text gives way: the structure around it stays, so that depths are reached."""

    def harm(data: bytes, dice: random.Random) -> bytes:
        words = _words(data)
        if not words:
            return dice.choice(things)
        start, end = dice.choice(words)
        return data[:start] + dice.choice(things) + data[end:]

    return harm


def shuffle_lines(data: bytes, dice: random.Random) -> bytes:
    lines = data.split(b"\n")
    dice.shuffle(lines)
    return b"\n".join(lines)


HARMS: tuple[Harm, ...] = (
    random_bytes,
    flip_bits,
    cut_short,
    take_out,
    repeat_part,
    swap_parts,
    shuffle_lines,
    put_in(MARKS),
    put_in(NUMBERS),
    put_in(STRUCTURES),
    replace_word(NUMBERS),
    replace_word(STRUCTURES),
    replace_word(MARKS),
)


def harmed(examples: Sequence[bytes], dice: random.Random) -> bytes:
    """One hostile input: an example after one to four harms, or nothing like an example."""
    data = dice.choice(examples)
    for _ in range(dice.choice((1, 1, 1, 2, 2, 4))):
        data = dice.choice(HARMS)(data, dice)[:200_000]
    return data


def _span(data: bytes, dice: random.Random) -> tuple[int, int]:
    start = dice.randrange(len(data) + 1)
    return start, min(len(data), start + dice.choice((1, 3, 20, 200)))


def _words(data: bytes) -> list[tuple[int, int]]:
    words, start = [], None
    for place, byte in enumerate(data[:20_000]):
        inside = chr(byte).isalnum() or byte in b"\"'_.-"
        if inside and start is None:
            start = place
        elif not inside and start is not None:
            words.append((start, place))
            start = None
    return words if start is None else [*words, (start, min(len(data), 20_000))]
