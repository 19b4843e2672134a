"""Hub names: as they are typed, as they are pasted, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.errors import UsageError
from dgemma.hub.names import HubName, choice_of, choices, is_address, parse_hub_name

REPO = "org/some.model-26B"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (REPO, HubName(REPO)),
        (f"{REPO}@", HubName(REPO)),
        (f"{REPO}@v1", HubName(REPO, "v1")),
        (f"{REPO}:Q4_K_M", HubName(REPO, None, "Q4_K_M")),
        (f"{REPO}@v1:x-Q8_0.gguf", HubName(REPO, "v1", "x-Q8_0.gguf")),
        (f"https://huggingface.co/{REPO}", HubName(REPO)),
        (f"http://huggingface.co/{REPO}/", HubName(REPO)),
        (f"https://www.huggingface.co/{REPO}?library=transformers#usage", HubName(REPO)),
        (f"https://huggingface.co/{REPO}/tree/main", HubName(REPO, "main")),
        (f"https://huggingface.co/{REPO}/tree/refs%2Fpr%2F3", HubName(REPO, "refs/pr/3")),
        (f"https://huggingface.co/{REPO}/tree/main/onnx", HubName(REPO, "main")),
        (f"https://huggingface.co/{REPO}/commit/{'a' * 40}", HubName(REPO, "a" * 40)),
        (f"https://huggingface.co/{REPO}/discussions/4", HubName(REPO)),
        (f"https://huggingface.co/{REPO}/blob/main/config.json", HubName(REPO, "main")),
        (f"https://huggingface.co/{REPO}/blob/main/x-Q4_K_M.gguf", HubName(REPO, "main", "x-Q4_K_M.gguf")),
        (f"https://huggingface.co/{REPO}/resolve/v1/x.GGUF?download=true", HubName(REPO, "v1", "x.GGUF")),
        (f"hf.co/{REPO}", HubName(REPO)),
        (f"hf.co/{REPO}:Q4_K_M", HubName(REPO, None, "Q4_K_M")),
        (f"huggingface.co/{REPO}/tree/dev", HubName(REPO, "dev")),
        (f"hf://{REPO}", HubName(REPO)),
    ],
)
def test_a_name_is_read_however_it_is_written(text: str, want: HubName) -> None:
    assert parse_hub_name(text) == want


@pytest.mark.parametrize(
    "text",
    [
        "name", "org/", "-org/name", "org/na--me", "org/na me", "org/name@a b", "org/name@a/../b", "org/name@../..", "org/name:a/b",
        "org/name:../x.gguf", "https://huggingface.co", "https://huggingface.co/org", "https://huggingface.co/datasets/org/name",
        "https://huggingface.co/org/name/tree/..%2F..", "https://[broken/org/name", "https://huggingface.co/org/%2e%2e", "",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_hub_name(text)
    assert "\n" not in str(caught.value)


def test_two_revisions_must_agree() -> None:
    assert parse_hub_name(f"{REPO}@v1", "v1") == parse_hub_name(REPO, "v1") == HubName(REPO, "v1")
    with pytest.raises(UsageError, match="disagree"):
        parse_hub_name(f"{REPO}@v1", "v2")


@given(st.text(max_size=80) | st.builds("https://huggingface.co/{}".format, st.text(max_size=60)))
def test_any_text_is_a_safe_name_or_one_error(text: str) -> None:
    try:
        name = parse_hub_name(text)
    except UsageError:
        return
    for part in (name.repo, name.revision or "a", name.gguf or "a"):
        assert ".." not in part.split("/") and not part.startswith("/") and part.isprintable()
    assert parse_hub_name(str(name)) == name, "what is shown can be typed"


FILES = ["m-BF16.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-UD-Q4_K_XL.gguf", "m-Q8_0.gguf", "other.gguf"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("Q4_K_M", ["m-Q4_K_M.gguf"]), ("q4_k_m", ["m-Q4_K_M.gguf"]), ("m-Q8_0.gguf", ["m-Q8_0.gguf"]), ("M-Q8_0.GGUF", ["m-Q8_0.gguf"]),
        ("bf16", ["m-BF16.gguf"]), ("Q4_K_XL", ["m-UD-Q4_K_XL.gguf"]), ("other", ["other.gguf"]), ("Q4", []), ("K_M", ["m-Q4_K_M.gguf"]),
    ],
)  # fmt: skip
def test_a_file_is_chosen_by_its_end(wanted: str, found: list[str]) -> None:
    assert choices(FILES, wanted) == found


def test_every_file_can_be_named() -> None:
    assert [choice_of(name, FILES) for name in FILES] == [
        "BF16",
        "Q4_K_M",
        "Q4_K_S",
        "UD-Q4_K_XL",
        "Q8_0",
        "other",
    ]
    assert choice_of("m-Q8_0.gguf", ["m-Q8_0.gguf", "n-Q8_0.gguf"]) == "m-Q8_0"
    for name in FILES:
        assert choices(FILES, choice_of(name, FILES)) == [name]


def test_only_the_hubs_hosts_are_addresses() -> None:
    assert (
        is_address("hf.co/a/b")
        and is_address("HTTPS://x".lower())
        and not is_address("org/name")
        and not is_address("/hf.co/x")
    )
