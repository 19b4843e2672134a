"""Hub names as people type and paste them: org/name, org/name@revision, org/name:Q4_K_M, addresses of
pages.

Knows no file and no network. Trap: an address is taken apart by the hub's own routes (/tree/REVISION,
/blob/REVISION/FILE); of a file in it only a .gguf is a choice, since every other file belongs to the whole
checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ..config.reader import shown
from ..errors import UsageError
from ..weights.gguf import GGUF

EXAMPLE = "google/diffusiongemma-26B-A4B-it"
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_ROUTES = ("tree", "blob", "resolve", "raw", "commit", "commits")
_HUB_NAME = re.compile(r"[A-Za-z0-9]([\w.-]*\w)?/[A-Za-z0-9]([\w.-]*\w)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)
_CHOICE = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)
_QUANTISATION = re.compile(r"(UD[-_])?(I?Q\d\w*|BF16|F16|F32|MXFP4\w*|TQ\d\w*)", re.IGNORECASE)


@dataclass(frozen=True)
class HubName:
    """A model of a hub.

    gguf: one GGUF file of it, by its name or the end of it (Q4_K_M); None: safetensors, or the only file.
    """

    repo: str
    revision: str | None = None
    gguf: str | None = None

    def __str__(self) -> str:
        revision = ""
        if self.revision:
            revision = f"@{self.revision}"
        return f"{self.repo}{revision}" + (f":{self.gguf}" if self.gguf else "")


def is_address(text: str) -> bool:
    """Whether a text is the address of a hub's page, with or without its scheme."""
    schemes = ("http://", "https://", "hf://")
    return text.lower().startswith(schemes) or text.partition("/")[0].lower() in _HOSTS


def parse_hub_name(text: str, revision: str | None = None) -> HubName:
    """What a text names. Raises UsageError for what is no hub name, or where two revisions disagree."""
    if is_address(text):
        name = _from_address(text)
    else:
        name = _from_name(text)
    if name.revision and revision and name.revision != revision:
        raise UsageError(f"'{text}' and the revision '{revision}' disagree; name one revision")
    revision = name.revision or revision or None
    if not _is_repo(name.repo):
        raise UsageError(f"{shown(text)} is neither a folder nor a hub name such as {EXAMPLE}")
    if revision is not None and not _is_revision(revision):
        raise UsageError(f"{shown(revision)} is no revision; give a branch, a tag or a commit hash")
    if name.gguf is not None and not _CHOICE.fullmatch(name.gguf):
        fix = f"what follows the colon names one {GGUF} file, such as {EXAMPLE}-GGUF:Q4_K_M"
        raise UsageError(f"{shown(text)}: {fix}")
    return HubName(name.repo, revision, name.gguf)


def _is_repo(text: str) -> bool:
    odd = ".." in text or "--" in text or text.endswith(".git")
    return not odd and len(text) <= 96 and _HUB_NAME.fullmatch(text) is not None


def _is_revision(text: str) -> bool:
    odd = ".." in text or "//" in text or text.endswith("/")
    return not odd and len(text) <= 255 and _REVISION.fullmatch(text) is not None


def _from_name(text: str) -> HubName:
    """org/name, org/name@revision, either with :choice behind it."""
    rest, _, gguf = text.partition(":")
    repo, _, revision = rest.partition("@")
    return HubName(repo, revision or None, gguf or None)


def _from_address(text: str) -> HubName:
    if "://" not in text:
        text = f"https://{text}"
    try:
        parts = urlsplit(text)
    except ValueError:
        raise _no_model(text) from None
    if parts.scheme == "hf":
        path = f"{parts.netloc}{parts.path}"
    else:
        path = parts.path
    pieces = [piece for piece in path.split("/") if piece]
    if pieces and pieces[0] == "models":
        del pieces[0]
    if len(pieces) < 2 or pieces[0] in ("datasets", "spaces", "collections"):
        raise _no_model(text)
    name = _from_name("/".join(pieces[:2]))
    if len(pieces) < 4 or pieces[2] not in _ROUTES:
        return name
    is_file = len(pieces) > 4 and pieces[-1].lower().endswith(GGUF)
    return HubName(name.repo, unquote(pieces[3]), unquote(pieces[-1]) if is_file else name.gguf)


def _no_model(text: str) -> UsageError:
    return UsageError(f"{shown(text)} is no address of a model; give its name, such as {EXAMPLE}")


def choices(names: list[str], gguf: str) -> list[str]:
    """Of some file names those that `gguf` stands for, letter case aside.

    The file of that name, else every file whose name ends in it.
    """
    wanted = gguf.lower().removesuffix(GGUF)
    stems = {name: name.lower().removesuffix(GGUF) for name in names}
    exact = [name for name, stem in stems.items() if stem == wanted]
    return exact or [name for name, stem in stems.items() if re.search(rf"[-._]{re.escape(wanted)}$", stem)]


def choice_of(name: str, names: list[str]) -> str:
    """The shortest text that stands for one file among some: its quantisation, else its whole name."""
    stem = name[: -len(GGUF)]
    for separator in re.finditer(r"[-._]", stem):
        short = stem[separator.end() :]
        if _QUANTISATION.fullmatch(short) and choices(names, short) == [name]:
            return short
    return stem
