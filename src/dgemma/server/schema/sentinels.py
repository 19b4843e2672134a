"""Gaps inside a prompt: the marks by which other models know a prefix, a suffix and other files, as editors
write them.

    marked_gap("<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>")  ->  MarkedGap("P", "S", ())

Knows the marks, no dialect. Trap: a prompt is a gap only where its marks are whole and in an order that a
model was trained on, and where nothing but marked files stands before them; a text that merely speaks of
marks is a text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

File = tuple[str, str]  # its name and its text


@dataclass(frozen=True)
class MarkedGap:
    """What a marked prompt asks for.

    The name of the file around the gap is not kept, nor the repository's.
    """

    prefix: str
    suffix: str
    files: tuple[File, ...] = ()  # read before the gap, in this order


@dataclass(frozen=True)
class Notation:
    """One model's marks: before the prefix, before the suffix, behind both."""

    prefix: str
    suffix: str
    middle: str
    spaced: bool = False  # may stand apart from the texts by a space


FAMILIES = (
    Notation("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma, Granite
    Notation("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Mellum
    Notation("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    Notation("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>"),  # Seed-Coder
    Notation("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM, CodeGeeX
    Notation("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek, and as its marks are typed
    Notation("<|fim▁begin|>", "<|fim▁hole|>", "<|fim▁end|>"),
    Notation("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
    Notation("<PRE>", "<SUF>", "<MID>", spaced=True),  # CodeLlama
    Notation("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),  # Mistral
)
STARTS = (
    "<s>",
    "<bos>",
    "<|begin_of_text|>",
    "<|endoftext|>",
    "<｜begin▁of▁sentence｜>",
    "[gMASK]<sop>",
)  # of a text
# of Qwen, CodeGemma, StarCoder 2, and StarCoder and Mellum; the repository's name stands before the first
# file
FILE = re.compile(r"<\|file_sep\|>|<\|file_separator\|>|<file_sep>|<filename>")
REPOSITORY = re.compile(r"<\|repo_name\|>|<repo_name>|<reponame>")
CODESTRAL_FILE = re.compile(r"(?:^|\n)\+{5} ")
NAME = re.compile(r"[\w.@+~/\\:-]+")  # a line that names a file
CONTROL = re.compile(r"<[|｜][\w▁]+[|｜]>|<\|?file\w+\|?>|<repo_?name>|<EOT>|</s>")


def marked_gap(prompt: str) -> MarkedGap | None:
    """The gap of a prompt in any of these notations, or None where it is a text."""
    for start in STARTS:
        prompt = prompt.removeprefix(start)
    for notation in FAMILIES:
        gap = _prefix_first(prompt, notation) or _suffix_first(prompt, notation)
        if gap is not None:
            return gap
    return _codestral(prompt)


def without_marks(stop: str | list[str] | None) -> list[str]:
    """Stop strings but for those that are another model's control tokens, which this one has no words for."""
    if isinstance(stop, str):
        stops = [stop]
    else:
        stops = stop or []
    return [text for text in stops if text.strip() not in _CONTROLS and not CONTROL.fullmatch(text.strip())]


_CONTROLS = {
    mark for notation in FAMILIES for mark in (notation.prefix, notation.suffix, notation.middle)
} | {*STARTS}


def _prefix_first(prompt: str, notation: Notation) -> MarkedGap | None:
    """FILES prefix P suffix S middle, or P behind the last mark instead."""
    head, _, rest = prompt.partition(notation.prefix)
    prefix, _, rest = rest.partition(notation.suffix)
    suffix, ended, behind = rest.rpartition(notation.middle)
    if not ended:
        return None
    if notation.spaced:
        prefix, suffix, behind = _closed_up(prefix, suffix, behind)
    if behind in ("\n", "\r\n"):  # as some examples write it
        behind = ""
    if behind and prefix:
        return None
    return _with_files(head, behind or prefix, suffix)


def _suffix_first(prompt: str, notation: Notation) -> MarkedGap | None:
    """FILES suffix S prefix P middle."""
    head, _, rest = prompt.partition(notation.suffix)
    suffix, _, rest = rest.partition(notation.prefix)
    prefix, ended, behind = rest.rpartition(notation.middle)
    if not ended or behind.strip("\r\n"):
        return None
    return _with_files(head, prefix, suffix)


def _closed_up(prefix: str, suffix: str, behind: str) -> tuple[str, str, str]:
    """The texts without the spaces of a notation that has one at each of its three places."""
    spaced = prefix[:1] == " " and prefix[-1:] == " " and suffix[-1:] == " "
    if not spaced:
        return prefix, suffix, behind
    return prefix[1:-1], suffix[:-1], behind.removeprefix(" ")


def _codestral(prompt: str) -> MarkedGap | None:
    """[SUFFIX]S[PREFIX]P, without a mark behind both."""
    head, _, rest = prompt.partition("[SUFFIX]")
    suffix, divided, prefix = rest.partition("[PREFIX]")
    if head or not divided:
        return None
    return _with_files("", prefix, suffix)


def _with_files(head: str, prefix: str, suffix: str) -> MarkedGap | None:
    """Take apart the files that stand before a gap or, by other editors, at the start of its prefix.

    -> None where `head` is no files.
    """
    files = []
    if head:
        sections = _sections(head)
        if sections is None:
            return None
        files = sections
        if "\n" not in files[-1].rstrip("\r\n"):  # the name of the file around the gap, or nothing
            files = files[:-1]
    elif inside := _sections(prefix) or CODESTRAL_FILE.split(prefix)[1:]:
        *files, around = inside  # the last is the gap's own file: its name, and the text before the gap
        _, named, behind = around.partition("\n")
        prefix = around
        if named:
            prefix = behind
    read = [_file(text) for text in files]
    return MarkedGap(prefix, suffix, tuple(file for file in read if file[1]))


def _sections(text: str) -> list[str] | None:
    """The marked files of a text that consists of them, or None."""
    first, *files = FILE.split(text)
    if REPOSITORY.match(first) or (files and not first):
        return files or [""]
    first_line = first.partition("\n")[0].rstrip("\r")
    if files and NAME.fullmatch(first_line):  # CodeGemma's mark stands between files alone
        return [first, *files]
    return None


def _file(section: str) -> File:
    name, text = _named(section)
    return name or "file", text.strip("\r\n")


def _named(section: str) -> tuple[str, str]:
    """The name in a section's first line, and what follows; "" where that line names nothing."""
    line, ended, rest = section.partition("\n")
    line = line.rstrip("\r")
    if ended and NAME.fullmatch(line):
        return line, rest
    return "", section
