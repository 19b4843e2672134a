"""`dgemma verify`: one report, as text or JSON, and exit code 6 where something does not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgemma import api
from dgemma.cli.main import main
from dgemma.config import DenoiseConfig
from tests.helpers import tiny_checkpoint

CALL = ["verify", "--device", "cpu", "--dtype", "float32", "--context", "40"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("private") / "tiny")


def test_a_report_that_holds(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CALL, str(tiny)]) == 0
    told = capsys.readouterr()
    assert "machine: ok\n" in told.out and "\nreach: ok\n" in told.out and "\nkernels: not run: " in told.out
    assert told.out.endswith("everything that ran holds\n") and "private" not in told.out and told.err == ""


def test_a_model_that_fails(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report goes on behind the section that fails."""
    load = api.load

    def forgetful(*arguments, **named):
        model = load(*arguments, **named)
        encode = model.net.encode
        monkeypatch.setattr(
            model.net, "encode", lambda ids, *rest: encode(ids * (ids != ids[0, 0]), *rest), raising=False
        )
        return model

    monkeypatch.setattr(api, "load", forgetful)
    assert main([*CALL, str(tiny), "--json"]) == 6
    found = json.loads(capsys.readouterr().out)
    states = {section["name"]: section["state"] for section in found["sections"]}
    assert (
        not found["holds"]
        and states["reach"] == "FAILED"
        and states["speed"] == "ok"
        and states["machine"] == "ok"
    )
    assert main([*CALL, str(tiny)]) == 6
    told = capsys.readouterr().out
    assert (
        "reach: FAILED\n" in told
        and "\n  FAILED keys or values of token" in told
        and "reach" in told.splitlines()[-1]
    )


def test_what_cannot_be_checked_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--context", "5"], ["--context", "99999"], ["--device", "tpu"], ["--dtype", "int3"]):
        assert main(["verify", str(tiny), *wrong]) == 2, wrong
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["verify", str(tiny / "nowhere")]) in (3, 4)


def test_settings_of_the_checkpoint_do_not_matter(tiny: Path, tmp_path: Path) -> None:
    """A checkpoint that asks for one step gets the same checks."""
    raw = json.loads((tiny / "generation_config.json").read_text())
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    one = DenoiseConfig.from_dict(raw).replace(max_denoising_steps=1)
    (tmp_path / "generation_config.json").write_text(json.dumps(one.to_dict()))
    assert main([*CALL, str(tmp_path)]) == 0
