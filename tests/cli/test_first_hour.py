"""What somebody meets in the first hour: models that are not here, flags by their names, names of the shipped model."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dgemma
from dgemma.cli import pull as pull_module
from dgemma.cli.flags import as_flags
from dgemma.cli.main import main
from dgemma.hub.locate import EMBEDDED, locate
from tests.helpers import tiny_checkpoint

from .fakes import FakeModel, Terminal, checkpoint_json


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("max_tokens is 0; it must be", "--max-tokens is 0; it must be"),
        ("min_tokens 9 exceeds max_tokens 4", "--min-tokens 9 exceeds --max-tokens 4"),
        ("t_max is 9; not below t_min 3", "--t-max is 9; not below --t-min 3"),
        ("seed is -1; it must be", "--seed is -1; it must be"),
        ("json_schema is not JSON", "--json-schema is not JSON"),
        ("temperature is -1; it must be", "--temperature is -1; it must be"),
        ("preset is 'x'; presets: exact", "--preset is 'x'; presets: exact"),
        ("cut at 4 tokens; raise max_tokens for more", "cut at 4 tokens; raise --max-tokens for more"),
        ("--max-tokens is 0", "--max-tokens is 0"),
        ("the seed is a grain", "the seed is a grain"),
        ("a/max_tokens.txt: no such file", "a/max_tokens.txt: no such file"),
        ("my_max_tokens and max_tokens_now", "my_max_tokens and max_tokens_now"),
    ],
)
def test_parameters_are_called_by_their_flags(message: str, told: str) -> None:
    assert as_flags(message) == told


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["-n", "0"], "--max-tokens"),
        (["--seed", "-1"], "--seed"),
        (["--steps", "0"], "--max-denoising-steps"),
        (["--t-min", "-1"], "--t-min"),
        (["--top-p", "2"], "--top-p"),
        (["--top-k", "-1"], "--top-k"),
        (["--min-tokens", "-2"], "--min-tokens"),
        (["--eos-token-id", "x"], "--eos-token-id"),
        (["--preset", "x"], "--preset"),
        (["--canvas-width", "9999"], "--canvas-width"),
        (["--dtype", "int3"], "--dtype"),
        (["--device", "tpu"], "--device"),
        (["--memory", "big"], "--memory"),
        (["--repetition-penalty", "-1"], "--repetition-penalty"),
        (["--temperature", "-1"], "--temperature"),
        (["--stability-threshold", "-1"], "--stability-threshold"),
        (["--entropy-bound", "-1"], "--entropy-bound"),
    ],
)
def test_a_flag_out_of_its_range_is_named_as_it_is_typed(
    flags: list[str], name: str, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "x", "-m", folder, *flags]) == 2
    told = capsys.readouterr().err
    inner = name[2:].replace("-", "_")  # its name in Python
    assert name in told and ("_" not in inner or inner not in told)


def test_the_config_of_a_folder_keeps_its_own_names(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(folder) / "generation_config.json").write_text('{"t_min": -1}')
    assert main(["run", "x", "-m", folder]) == 3
    assert "t_min" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["run", "x", "-m"], ["eval", __file__, "-m"], ["verify"], ["doctor"]])
def test_a_folder_that_is_no_checkpoint_lacks_config_json(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb, str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert "config.json" in out + err


def test_the_shipped_model_has_a_name() -> None:
    assert locate("(embedded)") == locate(None) == EMBEDDED
    assert dgemma.load("(embedded)", "meta").folder == EMBEDDED


@pytest.mark.parametrize("verb", [["run", "x", "-m"], ["bench", "-m"], ["verify"]])
def test_verbs_take_the_name_of_the_shipped_model(verb: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(name: Any, *_: Any, **__: Any) -> None:
        asked.append(name)
        raise dgemma.errors.UsageError("enough")

    monkeypatch.setattr("dgemma.api.load", load)
    assert main([*verb, "(embedded)"]) == 2
    assert asked == ["(embedded)"]


def test_bad_spans_are_named_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dgemma.api.load", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "a.py").write_text("a\nb\nc\n")
    for spans, word in (
        (["1:2", "2:3"], "overlap"),
        (["3:2"], "no lines 3:2"),
        (["9"], "no lines 9:9"),
        (["0"], "no lines 0:0"),
        (["x"], "--span is"),
    ):
        given = [part for span in spans for part in ("--span", span)]
        assert main(["edit", str(tmp_path / "a.py"), "--yes", *given]) == 2
        assert word in capsys.readouterr().err


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache, and a hub whose every model is the tiny one of these tests. -> what was fetched."""
    fetched: list[str] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def fetch(name: str, revision: str | None = None, progress: Any = None) -> None:
        fetched.append(name)
        home = tmp_path / "cache" / ("models--" + name.replace("/", "--"))
        checkpoint_json(home / "snapshots" / ("a" * 40))
        (home / "snapshots" / ("a" * 40) / "model.safetensors").touch()
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("a" * 40)

    monkeypatch.setattr(pull_module, "fetch", fetch)
    return fetched


@pytest.mark.parametrize("verb", ["run", "chat"])
def test_a_model_that_is_not_here_is_offered_at_a_terminal(
    verb: str, hub: list[str], serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(FakeModel("yes"))
    arguments = [verb, *(["x"] if verb == "run" else []), "-m", "org/name"]
    for typed, code, wanted in ((b"n\n", 4, []), (b"\n", 4, []), (b"", 4, []), (b"y\n", 0, ["org/name"])):
        both = Terminal()
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        monkeypatch.setattr(sys, "stderr", both)
        assert main(arguments) == code
        assert (
            "'org/name' is not on this machine" in both.text
            and "Fetch it now? [y/N]" in both.text
            and hub == wanted
        )


def test_a_model_that_is_not_here_is_a_command_in_a_pipe(
    hub: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "x", "-m", "org/name"]) == 4
    told = capsys.readouterr().err
    assert "dgemma pull org/name" in told and told.count("\n") == 1 and hub == []


def test_a_model_says_what_it_is(tmp_path: Path) -> None:
    model = dgemma.load(tiny_checkpoint(tmp_path / "tiny"), "cpu", "float32")
    told = repr(model)
    assert told.startswith("<dgemma.Model tiny: ") and "on CPU, float32" in told and "\n" not in told
    assert model.info.context == model.config.max_position_embeddings and model.info.kernels in (
        "torch",
        "c",
        "triton",
    )


def test_events_are_public_and_bring_no_torch() -> None:
    code = (
        "import sys, dgemma; print(dgemma.Draft, dgemma.Generation, dgemma.ToolCall); "
        "assert all(hasattr(dgemma, name) for name in dgemma.__all__ if name not in ('load', 'Model', 'ModelInfo')); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)


def test_files_with_a_byte_order_mark_are_read(serve: Any, folder: str, tmp_path: Path) -> None:
    model = serve(FakeModel("{}"))
    (tmp_path / "schema.json").write_text(json.dumps({"type": "object"}), encoding="utf-8-sig")
    assert main(["run", "x", "-m", folder, "--json-schema", str(tmp_path / "schema.json")]) == 0
    assert model.asked[0][-1] == {"json_schema": '{"type": "object"}'}


COMMAND = [
    sys.executable,
    "-c",
    "import sys; from dgemma.cli.main import main; code = main(); assert 'torch' not in sys.modules; sys.exit(code)",
]


@pytest.mark.parametrize(
    ("words", "found"),
    [("dgemma ru", "run"), ("dgemma run --max-t", "--max-tokens"), ("dgemma serve --log", "--log-requests")],
)
def test_a_shell_completes_verbs_and_flags_without_torch(words: str, found: str) -> None:
    count = str(len(words.split()) - 1)
    asked = {"_DGEMMA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    told = subprocess.run(
        COMMAND, env=os.environ | asked, capture_output=True, text=True, check=True, timeout=300
    )
    assert found in told.stdout.split()


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    home = os.environ | {"HOME": str(tmp_path)}

    def from_bash(flag: str) -> str:
        """What the flag prints under a shell, which is looked for among the processes above."""
        script = f"{shlex.join([*COMMAND, flag])}; exit $?"  # not the last command, which bash would become
        bash = ["bash", "-c", script]
        return subprocess.run(bash, env=home, capture_output=True, text=True, check=True, timeout=300).stdout

    assert "complete -o default -F _dgemma_completion dgemma" in from_bash("--show-completion")
    from_bash("--install-completion")
    assert "dgemma" in (tmp_path / ".bashrc").read_text()


def test_a_model_in_the_prompts_place_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dgemma.api.load", lambda *_, **__: FakeModel("x"))
    for prompt, noticed in (("org/name", True), ("def f(a): return a/b", False)):
        assert main(["run", prompt]) == 0
        assert ("a model is named with -m" in capsys.readouterr().err) is noticed
