"""`dgemma doctor --memory`: its flags, its answer as data and for people, and hub models that are not on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgemma.cli import doctor
from dgemma.cli.main import main
from dgemma.cli.memory_report import MemoryTarget, memory_report, memory_target
from dgemma.config import ModelConfig
from dgemma.errors import HubError, UsageError
from dgemma.memory import plan
from dgemma.memory.plan import GIB, Memory
from dgemma.weights.layout import read_layout
from tests.hub.hub_server import COMMIT, Hub, serve
from tests.weights.weights_helpers import sparse_checkpoint, write_folder

GB = 10**9
NAME = "org/tiny-diffusion"


@pytest.fixture(autouse=True)
def plain_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DGEMMA_KERNELS", raising=False)


@pytest.fixture(scope="module", params=[None, "modelopt", "int4"])
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str | None, Path]:
    return request.param, sparse_checkpoint().write(tmp_path_factory.mktemp("sparse"), layout=request.param)


def answered(
    folder: Path, memory: str, context: str | None = None, device: str | None = None
) -> dict[str, Any]:
    config = ModelConfig.from_file(folder / "config.json")
    return memory_report(config, read_layout(folder, config), memory_target(memory, context, device, []))


def test_four_bits_fit_a_card_of_24_gb_and_sixteen_do_not(published: tuple[str | None, Path]) -> None:
    layout, folder = published
    found = answered(folder, "24GB")
    assert found["fits"] == (layout is not None) and found["context"] == 4096
    assert answered(folder, "24GB", "32k")["fits"] == (layout is not None)
    assert found["weights"] == sum(group["bytes"] for group in found["groups"].values())
    assert (
        found["needs"] == found["weights"] + found["packed"] + found["kv"] + found["work"] + found["margin"]
    )
    kinds = {None: "bf16", "modelopt": "nvfp4", "int4": "int4, groups of 32"}
    assert (
        found["groups"]["experts"]["format"] == kinds[layout]
        and found["groups"]["attention"]["format"] == "bf16"
    )
    assert layout is None or (found["weights"] <= 19.5 * GB and found["longest_context"] > 16_384)


def test_where_it_does_not_fit_the_choices_say_what_would(
    published: tuple[str | None, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, folder = published
    memory = "24GB" if layout is None else "20.3GB"
    found = answered(folder, memory, "32k")
    assert not found["fits"]
    choices = {choice["format"]: choice for choice in found["choices"]}
    names = ["as it is", "fp8", "nvfp4", "int4", "int4+fp8"] if layout is None else ["as it is", "int4+fp8"]
    assert [*choices] == names and not choices["as it is"]["fits"] and choices["int4+fp8"]["fits"]
    for choice in choices.values():
        stream = choice["streaming"]
        assert choice["fits"] == (stream is None) == (choice["longest_context"] >= 32_768)
        if stream is not None:
            assert (
                stream["fits"]
                and 0 < stream["resident"] < stream["layers"] == 30
                and stream["device"] <= found["memory"]
            )
            assert 0 < stream["moved_per_step"] <= stream["host"]
    hints = " ".join(found["hints"])
    if layout is not None:
        longest = found["longest_context"]
        assert f"--context {longest}" in hints and answered(folder, memory, str(longest))["fits"]
        assert not answered(folder, memory, str(longest + 1))["fits"]
        assert "DGEMMA_KERNELS=triton" in hints
    monkeypatch.setenv("DGEMMA_KERNELS", "triton")
    again = answered(folder, memory, "32k")
    assert again["fits"] == (layout is not None) and "DGEMMA_KERNELS" not in " ".join(again["hints"])


def test_a_card_too_small_for_anything_says_what_is_missing(published: tuple[str | None, Path]) -> None:
    found = answered(published[1], "2GB")
    assert not any(choice["fits"] or choice["streaming"]["fits"] for choice in found["choices"])
    assert all(choice["streaming"]["missing"] > 0 for choice in found["choices"])


def test_a_cpu_reads_what_does_not_fit_from_the_files(
    published: tuple[str | None, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "lacks_avx512", lambda: False)
    layout, folder = published
    found = answered(folder, "16GB", device="cpu")
    stream = found["choices"][0]["streaming"]
    assert not found["fits"] and stream["fits"] and stream["host"] == stream["moved_per_step"]
    assert found["packed"] == 262_144 * 2816 * 2 and found["dtype"] == "bfloat16"
    assert answered(folder, "200GB", device="cpu")["dtype"] == "float32"


def test_without_a_memory_it_is_the_cards_or_the_machines() -> None:
    ram, card = Memory("RAM", 64 * GIB, 60 * GIB), Memory("cuda:0 X", 24 * GIB, 23 * GIB)
    assert memory_target(None, None, None, [ram]) == MemoryTarget(
        60 * GIB, "64.42 GB of free RAM", "cpu", None
    )
    here = memory_target(None, "8k", None, [ram, card])
    assert (here.memory, here.device, here.context, here.host) == (23 * GIB, "cuda", 8192, 60 * GIB)
    assert memory_target(None, None, "cpu", [ram, card]).memory == 60 * GIB
    assert (
        memory_target("8GB", None, None, [ram, card]).host == 60 * GIB
        and memory_target("8GB", None, None, [ram]).host == 0
    )
    with pytest.raises(UsageError, match="no card; name one's size"):
        memory_target(None, None, "cuda", [ram])


def test_ram_beside_a_card_is_an_answer_too(tmp_path: Path) -> None:
    folder = sparse_checkpoint().write(tmp_path, layout="int4")
    config = ModelConfig.from_file(folder / "config.json")
    layout = read_layout(folder, config)
    for free, said in ((64, True), (8, False)):
        target = memory_target(
            "8GB", None, None, [Memory("RAM", 64 * GIB, free * GIB), Memory("cuda:0 X", 8 * GIB, 8 * GIB)]
        )
        hints = memory_report(config, layout, target)["hints"]
        assert any(hint.startswith("--device cpu: ") for hint in hints) == said


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--memory", "lots"], "memory is 'lots'"), (["--memory", "24GB", "--context", "x"], "context is 'x'"),
        (["--device", "tpu"], "--device tpu"), (["--context", "9M"], "131072 positions"),
    ],
)  # fmt: skip
def test_flags_that_make_no_sense(flags: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and word in err


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "flags", [[], ["--memory", "24GB", "--context", "32k"], ["--memory", "8GB", "--device", "cpu"]]
)
def test_tables_fit_a_terminal(
    published: tuple[str | None, Path],
    flags: list[str],
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(doctor, "stdout_is_terminal", lambda: True)
    assert main(["doctor", *flags, str(published[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [
        line
        for line in lines
        if line.strip().startswith(("as it is", "int4+fp8  ", "experts ", "format", "together", "weights "))
    ]
    assert len(table) >= 3 and all(len(line.rstrip()) <= 80 and "…" not in line for line in table)


def test_everything_is_in_json(
    published: tuple[str | None, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json", "--memory", "24GiB", "--context", "32k", str(published[1])]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["answer"]["memory"] == 24 * GIB and report["answer"]["context"] == 32_768
    names = {row["format"] for row in report["fits"]}
    assert ("as it is" in names) == (published[0] is not None) and {"bf16", "int4", "float32"} <= names


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    origin = write_folder(tmp_path / "origin", shards=2)
    with serve(Hub(NAME, {path.name: path.read_bytes() for path in origin.iterdir()})) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_a_hub_model_is_examined_and_not_downloaded(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", NAME, "--memory", "2GB"]) == 0
    out = capsys.readouterr().out
    assert (
        f"{NAME}@{COMMIT[:12]}" in out
        and "nothing was downloaded" in out
        and "a card with 2.00 GB: fits" in out
    )
    assert "dgemma-headers" not in out and not (tmp_path / "cache").exists()
    hub.files["model-00001-of-00002.safetensors"] = hub.files["model-00001-of-00002.safetensors"][:-1]
    assert main(["doctor", NAME]) == 3
    out = capsys.readouterr().out
    assert (
        f"{NAME}@{COMMIT[:12]}/model-00001-of-00002.safetensors: truncated" in out
        and "dgemma-headers" not in out
    )
    hub.files["config.json"] = b"{}"
    report = doctor.examine(NAME)
    assert (
        report.answer is None
        and report.fits == []
        and not any("dgemma-headers" in line for line in report.problems)
    )


def test_only_doctor_asks_the_hub(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (["run", "a", "-m"], ["eval", __file__, "-m"]):
        assert main([*verb, NAME]) == 4
        assert "dgemma pull" in capsys.readouterr().err
    assert not hub.log


def test_a_hub_name_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        doctor.examine(NAME)
    assert not hub.log


def test_it_says_whether_the_c_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGEMMA_KERNELS", "torch")
    facts = doctor.examine(None).machine
    assert facts["c_kernels"] == {"float32": "DGEMMA_KERNELS is set", "bfloat16": "DGEMMA_KERNELS is set"}
    assert (
        "CPU kernels in C: not in float32: DGEMMA_KERNELS is set; not in bfloat16: DGEMMA_KERNELS is set"
        in doctor._machine_lines(facts)
    )
    facts["c_kernels"]["float32"] = None
    assert "CPU kernels in C: float32; not in bfloat16: DGEMMA_KERNELS is set" in doctor._machine_lines(facts)
