"""`dgemma quantize`: the report on the screen, as JSON and in the folder; what is refused, and before torch is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dgemma
from dgemma.cli import quantize
from dgemma.cli.main import main
from dgemma.errors import NumericsError
from dgemma.kernels.quant.formats import QuantTensor
from tests.helpers import tiny_checkpoint

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 32,
    "head_dim": 16,
    "global_head_dim": 16,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("private") / "tiny", dtype="bfloat16", **SIZES)


def test_a_report_on_the_screen_and_in_the_folder(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "made"
    assert (
        main(
            [
                "quantize",
                str(tiny),
                str(target),
                "--format",
                "int4",
                "--keep",
                "attention,dense=fp8",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    told = capsys.readouterr()
    lines = {line.split()[0]: line for line in told.out.splitlines()}
    assert (
        "int4/32" in lines["experts"]
        and " fp8 " in lines["attention"]
        and "as is" in lines["router"]
        and told.err == ""
    )
    assert "predictions: KL " in told.out and "steps per canvas: " in told.out
    kept = json.loads((target / quantize.REPORT).read_text())
    assert (
        kept["formats"] == {"experts": "int4", "attention": "fp8", "dense": "fp8"}
        and kept["source"] == "tiny"
    )
    assert "private" not in json.dumps(kept) and kept["not_compared"] is None and kept["comparison"]["kl"] > 0
    assert {kept["errors"][name]["group"] for name in kept["errors"]} == set(kept["formats"])
    on_disk = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    data = sum(size["after"] for size in kept["bytes"].values())
    assert data < on_disk < data + 60_000  # headers
    model = dgemma.load(target, "cpu")
    assert (
        isinstance(model.net.layers[0].self_attn.q_proj.weight, QuantTensor)
        and model.notes == dgemma.load(tiny, "cpu").notes
    )
    assert model.generate("x = ", 8).token_ids


def test_json_and_no_comparison(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgemma.api.load", lambda *arguments, **named: pytest.fail("a model was loaded"))
    assert (
        main(["quantize", str(tiny), str(tmp_path / "made"), "--format", "fp8", "--no-compare", "--json"])
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "made" / quantize.REPORT).read_text())
    assert told["comparison"] is None and "--no-compare" in told["not_compared"]


def test_models_that_do_not_fit_are_not_compared(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "free_on", lambda device, index: 10**6)
    assert main(["quantize", str(tiny), str(tmp_path / "made"), "--format", "nvfp4", "--device", "cpu"]) == 0
    assert (
        "not compared: both models would need" in capsys.readouterr().out
        and (tmp_path / "made" / "config.json").exists()
    )


def test_calibration(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("for name in names:\n    print(name)\n" * 20)
    call = ["quantize", str(tiny), "--format", "int4", "--no-compare", "--device", "cpu", "--json"]
    assert main([*call[:2], str(tmp_path / "made"), *call[2:], "--calibrate", str(text)]) == 0
    weighed = json.loads(capsys.readouterr().out)
    assert main([*call[:2], str(tmp_path / "plain"), *call[2:]]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert weighed["calibration"].startswith("700 tokens") and plain["calibration"] is None
    pairs = [
        (weighed["errors"][name]["relative"], plain["errors"][name]["relative"]) for name in plain["errors"]
    ]
    assert all(mine >= theirs for mine, theirs in pairs) and any(mine > theirs for mine, theirs in pairs)
    text.write_text("short")
    assert main([*call[:2], str(tmp_path / "other"), *call[2:], "--calibrate", str(text)]) == 2
    assert "has 5 tokens; at least 24" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--format", "int3"], "formats: fp8, nvfp4, int4"),
        (["--format", "int4", "--keep", "router=int4"], "four bits cost the router"),
        (["--format", "int4", "--group-size", "64"], "no whole groups of 64"),
        (["--format", "int4", "--calibrate", "nowhere.txt"], "cannot be read"),
        (["--format", "int4", "--device", "tpu"], "device 'tpu'"),
        (["--format", "int4", "--keep", "experts=bf16"], "what --format says"),
    ],
)
def test_one_line_for_what_makes_no_sense(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert main(["quantize", str(tiny), str(tmp_path / "made"), *more]) == 2
    told = capsys.readouterr()
    assert said in told.err and len(told.err.strip().splitlines()) == 1 and told.out == ""
    assert not list(tmp_path.iterdir())


def test_places_that_are_refused(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(tiny), str(tiny), "--format", "fp8"]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["quantize", str(tmp_path / "nowhere"), str(tmp_path / "made"), "--format", "fp8"]) == 3
    assert "no such folder" in capsys.readouterr().err


def test_refusals_do_not_load_torch(tiny: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from dgemma.cli.main import main; "
        f"codes = [main(['quantize', {str(tiny)!r}, {str(tiny)!r}, '--format', form]) for form in ('fp8', 'int3')]; "
        "print(codes, 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[2, 2] False"


def test_numbers_that_are_none_leave_no_folder(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stops a run before its first whole shard leaves nothing, whatever it was."""

    def fail(*arguments: object, **named: object) -> None:
        raise NumericsError("not finite")

    monkeypatch.setattr("dgemma.quantize.convert.search_scales", fail)
    assert main(["quantize", str(tiny), str(tmp_path / "made"), "--format", "fp8", "--no-compare"]) == 6
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_model_by_the_name_that_ls_gives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", "(embedded)", str(tmp_path / "made"), "--format", "nvfp4", "--no-compare"]) == 0
    assert " 8.79 MB " in capsys.readouterr().out
