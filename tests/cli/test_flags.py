"""Flags from the fields of GenerationParams, and what is refused by JSON and flags alone."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dgemma.cli import flags
from dgemma.cli.flags import WRITTEN, CommandOptions, check, decode, read_prompt, read_text, with_options
from dgemma.config import MAX_PROMPT_CHARACTERS, GenerationParams
from dgemma.config.params import PARAMS
from dgemma.errors import CheckpointError, DgemmaError, UsageError

from .fakes import Terminal, checkpoint_json, pipe_in


def given_flags(*arguments: str, without: tuple[str, ...] = ()) -> CommandOptions:
    seen: list[CommandOptions] = []

    @with_options(without)
    def verb(word: Annotated[str, typer.Argument()] = "w", *, options: CommandOptions) -> None:
        assert word == "w"
        seen.append(options)

    app = typer.Typer()
    app.command()(verb)
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return seen[0]


def test_every_parameter_has_a_flag_unless_it_says_otherwise() -> None:
    assert {*flags.param_options(WRITTEN)} == {name for name, param in PARAMS.items() if param.flag}


def test_what_is_not_given_is_not_there() -> None:
    assert given_flags() == CommandOptions()
    assert given_flags("--seed", "3", "-n", "5", "-m", "here", "--json", "--no-live") == CommandOptions(
        model="here", as_json=True, no_live=True, params=GenerationParams(seed=3, max_tokens=5)
    )


def test_settings_arrive_with_their_types() -> None:
    options = given_flags(
        "--steps", "7", "--t-min", "1", "--entropy-bound", "0.5", "--eos-token-id", "1, 106"
    )
    assert options.params.given == {
        "max_denoising_steps": 7,
        "t_min": 1.0,
        "entropy_bound": 0.5,
        "eos_token_id": (1, 106),
    }
    assert given_flags("--max-denoising-steps", "7").params.given == {"max_denoising_steps": 7}
    assert given_flags("--ignore-after-end").params.given == {"ignore_after_end": True}
    assert given_flags("--eos-token-id", "none").params.given == {"eos_token_id": None}
    with pytest.raises(UsageError, match="--eos-token-id is 'x'"):
        given_flags("--eos-token-id", "x")


def test_a_verb_can_leave_flags_out() -> None:
    with pytest.raises(AssertionError, match="No such option"):
        given_flags("--eos-token-id", "1", without=("eos_token_id",))
    assert given_flags("--t-min", "0.1", without=("eos_token_id", "seed")).params.given == {"t_min": 0.1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CommandOptions(dtype="int8"), "--dtype 'int8'"),
        (CommandOptions(device="meta"), "device 'meta'"),
        (CommandOptions(memory="lots"), "--memory is 'lots'"),
        (CommandOptions(params=GenerationParams(t_max=0.1)), "t_max is 0.1"),
        (
            CommandOptions(params=GenerationParams(canvas_width=65)),
            "--canvas-width 65 exceeds the checkpoint's canvas_length 64",
        ),
    ],
)
def test_a_bad_flag_is_refused_by_name(options: CommandOptions, message: str, folder: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(dataclasses.replace(options, model=folder))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-tokens", "0"), "--max-tokens is 0"),
        (("-n", "-1"), "--max-tokens is -1"),
        (("--seed", "-1"), "--seed is -1"),
        (("--seed", str(2**63)), "--seed is 9223372036854775808"),
        (("--steps", "0"), "--max-denoising-steps is 0"),
        (("--entropy-bound", "nan"), "--entropy-bound is nan"),
        (("--preset", "fast"), "--preset is 'fast'; presets: exact, early, cool, bold"),
    ],
)
def test_a_flag_out_of_its_range_is_refused_at_once(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        given_flags(*flags)


def test_flags_are_judged_beside_the_checkpoints_own_settings(folder: str) -> None:
    # t_min 1.2 is above the class's t_max of 0.8, and fine beside this checkpoint's 1.5
    settings = check(
        CommandOptions(model=folder, params=GenerationParams(t_min=1.2), dtype="float32", device="cuda:1")
    )
    assert (settings.t_min, settings.t_max, settings.max_denoising_steps) == (1.2, 1.5, 12)


def test_the_checkpoint_is_looked_at_before_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        check(CommandOptions(model=str(tmp_path / "none")))
    (checkpoint_json(tmp_path) / "generation_config.json").write_text('{"surprise": 1}')
    with pytest.raises(CheckpointError, match="surprise"):
        check(CommandOptions(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "X is empty"),
        (b"abc\xff\xfe", "X is not UTF-8 text: byte 3 is 0xff"),
        (b"cut \xe2\x82", "byte 4 is 0xe2"),
        (b"PK\x00\x01", "X is not text: byte 2 is 0x00"),
        (b"x" * (MAX_PROMPT_CHARACTERS + 1), "X has 800001 characters; max_prompt_characters is 800000"),
        (b"x" * (4 * MAX_PROMPT_CHARACTERS + 1), "X has more than 800000 characters"),
    ],
)
def test_an_unreadable_prompt_is_refused_with_its_offset_or_limit(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_text(data, "X")


@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_prompt_is_its_bytes_or_an_error(data: bytes) -> None:
    try:
        assert read_text(data, "X").encode() == data
    except DgemmaError as error:
        assert "\n" not in str(error) and str(error).startswith("X ")


def test_a_file_may_begin_with_a_byte_order_mark() -> None:
    assert decode(b'\xef\xbb\xbf{"a": 1}', "f") == '{"a": 1}'
    with pytest.raises(UsageError, match="byte 4 is 0xff"):
        decode(b"\xef\xbb\xbf{\xff", "f")
    assert read_text(b"\xef\xbb\xbfx", "the prompt") == "\ufeffx", "a prompt is what was typed"


def test_where_a_prompt_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_prompt("von Größe") == "von Größe"
    with pytest.raises(UsageError, match="the prompt is not UTF-8 text: byte 1 is 0xff"):
        read_prompt("a\udcff")  # how Python hands over a byte that is not UTF-8
    for name in (None, "-"):
        pipe_in(monkeypatch, "größer\r\n".encode())
        assert read_prompt(name) == "größer\r\n"
    monkeypatch.setattr(sys, "stdin", Terminal(b"typed"))
    with pytest.raises(UsageError, match="there is no prompt"):
        read_prompt(None)
    assert read_prompt("-") == "typed"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="there is no prompt"):
        read_prompt("-")


def test_endless_input_is_read_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            buffer[:] = b"y" * len(buffer)
            return len(buffer)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    with pytest.raises(UsageError, match="more than 800000 characters"):
        read_prompt(None)
