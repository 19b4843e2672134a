"""Sizes and contexts as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma.config.formats import Format, quant_config
from dgemma.config.sizes import parse_bytes, parse_tokens
from dgemma.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9), ("24GiB", 24 * 2**30), ("8G", 8 * 10**9), ("8.5 gb", 8_500_000_000), ("512MiB", 2**29),
        ("1T", 10**12), ("8589934592", 2**33), ("100b", 100), ("2Gi", 2**31), ("0.1GB", 10**8), ("64kb", 64_000),
    ],
)  # fmt: skip
def test_memories(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "0", "GB", "-1GB", "24 XB", "24GBB", "1e9", "inf", "nan", "24,5GB", "9" * 30, "99999999T", "0.1"],
)
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(UsageError, match="memory is .*24GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("32k", 32_768), ("131072", 131_072), ("131,072", 131_072), ("1.5K", 1536), ("1M", 2**20)],
)
def test_contexts(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "0", "k", "-5", "32kb", "0.0001k", "3 2", "many", "9" * 40])
def test_what_is_no_context(text: str) -> None:
    with pytest.raises(UsageError, match="context is .*32k"):
        parse_tokens(text)


@given(st.integers(1, 2**62))
def test_every_number_of_bytes_is_itself(size: int) -> None:
    if len(str(size)) <= 18:
        assert parse_bytes(str(size)) == parse_bytes(f"{size}B") == size


def test_recipes() -> None:
    assert quant_config("bf16") == {} and quant_config("bf16+bf16") == {}
    assert quant_config("fp8") == dict.fromkeys(("experts", "attention", "dense"), Format("fp8"))
    assert quant_config("nvfp4") == {"experts": Format("nvfp4")} and quant_config(
        "int4+bf16"
    ) == quant_config("int4") == {"experts": Format("int4", 32)}
    assert quant_config("int4+fp8") == {
        "experts": Format("int4"),
        "attention": Format("fp8"),
        "dense": Format("fp8"),
    }
    assert quant_config("fp8+bf16") == {"experts": Format("fp8")} and set(quant_config("bf16+int8")) == {
        "attention",
        "dense",
    }
    for name in ("", "int5", "q4_k", "int4+", "int4+q8_0", "+fp8", "int4+fp8+fp8", "INT4"):
        with pytest.raises(UsageError, match="formats: bf16, fp8"):
            quant_config(name)
