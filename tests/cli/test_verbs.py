"""The verbs that look after checkpoints: doctor, pull, ls, rm, each as a one-command application."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from dgemma.cli import doctor, ls, memory_report, pull, rm
from dgemma.config import DenoiseConfig
from dgemma.errors import CheckpointError, HubError
from dgemma.hub import locate
from dgemma.hub.locate import CachedModel
from dgemma.memory.plan import GIB, Memory
from dgemma.weights.names import expected_tensors
from dgemma.weights.writer import save
from tests.hub.hub_server import COMMIT, Hub, serve
from tests.weights.weights_helpers import sparse_checkpoint, tiny_config, tiny_state, write_folder

NAME = "org/tiny-diffusion"


def run(verb, *arguments, stdin=None):
    app = typer.Typer()
    app.command()(verb.command)
    return CliRunner().invoke(app, arguments, input=stdin, catch_exceptions=False)


@pytest.fixture
def folder(tmp_path):
    state, targets = tiny_state(), expected_tensors(tiny_config())
    items = ((target.model_name, state[name]) for name, target in targets.items())
    tokenizer = (
        sparse_checkpoint().stand_in_tokenizer({"<pad>": 0, "<eos>": 1, "<bos>": 2}, first_byte=3).to_str()
    )
    return save(tmp_path / "model", tiny_config(), DenoiseConfig(eos_token_id=(1,)), items, tokenizer)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return sparse_checkpoint().write(tmp_path_factory.mktemp("sparse"))


def test_doctor_reads_the_published_checkpoint(published):
    result = run(doctor, str(published))
    assert result.exit_code == 0 and "no problem found" in result.stdout
    for fact in ("1047 tensors in 11 safetensors files", "BF16 51.65 GB", "356 tensors, 1.15 GB, not used yet",
                 "experts 45.68 GB", "25 sliding (window 1024), 5 full", "18 of 18 control tokens"):  # fmt: skip
        assert fact in result.stdout


def test_doctor_says_what_fits(published):
    report = json.loads(run(doctor, "--json", str(published)).stdout)
    rows = {(row["format"], row["context"]): row for row in report["fits"]}
    assert [*dict.fromkeys(name for name, _ in rows)] == [
        "bf16",
        "fp8",
        "nvfp4",
        "int4",
        "int4+fp8",
        "float32",
    ] and len(rows) == 18
    fits = rows["bf16", 4096]["fits"]
    assert [fits[f"{size} GB card"] for size in (24, 48, 80, 141)] == [False, False, True, True]
    assert not rows["float32", 4096]["fits"]["80 GB card"] and rows["int4", 4096]["fits"]["24 GB card"]
    for row in rows.values():
        assert row["total"]["cuda"] == row["weights"] + row["kv"] + row["work"]["cuda"]
        for place, longest in row["longest"].items():
            assert row["fits"][place] == (longest >= row["context"])
    assert report["model"]["weights"]["text"]["groups"]["experts"] == 45_675_970_560
    assert report["machine"]["torch"] == torch.__version__ and report["problems"] == []


def test_what_fits_here_counts_free_memory():
    memories = [Memory("RAM", 64 * GIB, 2 * GIB), Memory("cuda:0 X", 8 * GIB, 8 * GIB)]
    rows = memory_report.format_table(tiny_config(), memories)
    # the model's own limit, where 4096 is beyond it; nobody divides its 6 inputs into groups
    assert [(row["format"], row["context"]) for row in rows] == [
        ("bf16", 512),
        ("fp8", 512),
        ("float32", 512),
    ]
    assert list(rows[0]["fits"])[:2] == ["RAM", "cuda:0 X"] and all(rows[0]["fits"].values())
    starved = memory_report.format_table(tiny_config(), [Memory("RAM", 64 * GIB, 2**16)])
    assert not starved[0]["fits"]["RAM"] and starved[0]["longest"]["RAM"] == 0


def test_doctor_lists_every_problem_and_leaves_with_3(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "generation_config.json").write_text('{"t_max": -1}')
    state = tiny_state() | {"lm_head.weight": torch.zeros(1)}
    del state["model.decoder.norm.weight"]
    write_folder(folder, state)
    result = run(doctor, str(folder))
    assert result.exit_code == 3 and "no problem found" not in result.stdout
    assert "'model.decoder.norm.weight' is missing" in result.stdout and "'lm_head.weight'" in result.stdout
    assert "tokenizer.json: no such file" in result.stdout and "t_max" in result.stdout
    report = run(doctor, "--json", str(folder))
    assert report.exit_code == 3 and len(json.loads(report.stdout)["problems"]) == 4


def test_doctor_goes_on_after_a_config_it_cannot_read(folder):
    (folder / "config.json").write_text('{"model_type": "diffusion_gemma", "text_config": {}}')
    report = doctor.examine(str(folder))
    assert len(report.problems) == 1 and "config.json" in report.problems[0]
    assert report.model["weights"]["tensors"] == len(tiny_state()) and report.fits == []
    assert run(doctor, str(folder)).exit_code == 3


def test_doctor_says_what_is_set_aside(folder):
    raw = json.loads((folder / "config.json").read_text()) | {
        "unsloth_fixed": True,
        "auto_map": {"AutoModel": "a.B"},
    }
    (folder / "config.json").write_text(json.dumps(raw))
    report = doctor.examine(str(folder))
    assert report.problems == []
    assert "config.json: not used, and without effect on the model: unsloth_fixed, auto_map" in report.notes


def test_doctor_compares_tokenizer_and_model(folder):
    assert doctor.examine(str(folder)).problems == []
    sparse_checkpoint().stand_in_tokenizer().save(str(folder / "tokenizer.json"))
    raw = json.loads((folder / "generation_config.json").read_text()) | {"eos_token_id": [1, 280]}
    (folder / "generation_config.json").write_text(json.dumps(raw))
    problems = doctor.examine(str(folder)).problems
    assert len(problems) == 2
    assert (
        "eos_token_id 280 is beyond the vocabulary of 280" in problems[0] and "does not belong" in problems[1]
    )


def test_doctor_without_a_model(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "EMBEDDED", tmp_path)
    result = run(doctor)
    assert result.exit_code == 0 and "RAM: " in result.stdout and "ships no checkpoint" in result.stdout
    with pytest.raises(CheckpointError, match="no such folder"):
        run(doctor, str(tmp_path / "none"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(locate, "EMBEDDED", tmp_path / "no-embedded")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "cache"


def test_pull_ls_rm(tmp_path, cache, monkeypatch):
    origin = write_folder(tmp_path / "origin", shards=2)
    with serve(Hub(NAME, {path.name: path.read_bytes() for path in origin.iterdir()})) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        fetched = run(pull, NAME)
    path = cache / "models--org--tiny-diffusion" / "snapshots" / COMMIT
    assert fetched.exit_code == 0 and fetched.stdout == f"{path}\n"
    assert "2 weight files" in fetched.stderr and "fetching model-00001" in fetched.stderr
    (entry,) = json.loads(run(ls, "--json").stdout)
    assert (entry["name"], entry["revision"], entry["state"], entry["path"]) == (
        NAME,
        COMMIT,
        "ok",
        str(path),
    )
    line = run(ls).stdout.rstrip("\n").split("\t")
    assert line[:2] == [NAME, f"{COMMIT[:12]} (main)"] and line[-1] == str(path)
    assert "removed" in run(rm, NAME, "--yes").stdout and not path.exists()
    empty = run(ls)
    assert empty.stdout == "" and "dgemma pull" in empty.stderr
    with pytest.raises(HubError, match="not in the cache"):
        run(rm, NAME)


def test_rm_asks_on_a_terminal(monkeypatch, cache):
    asked = []
    monkeypatch.setattr(rm, "remove", lambda *arguments: asked.append(arguments) or 5)
    monkeypatch.setattr(rm.typer, "confirm", lambda _: False)

    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setattr(rm.sys, "stdin", Terminal())
    with pytest.raises(typer.Exit):
        rm.command(NAME)
    assert asked == []
    rm.command(NAME, yes=True)
    assert asked == [(NAME, None)]


def test_square_brackets_are_no_markup(capsys, monkeypatch, tmp_path):
    model = CachedModel(NAME, COMMIT, ("main",), 5, "bf16", tmp_path / "[red]", "ok")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "400")
    ls.show([model])
    assert "[red]" in capsys.readouterr().out


def test_the_verbs_do_not_load_torch(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from dgemma.cli import doctor, ls, memory_report, pull, rm; from dgemma.weights.layout import problems; "
        "from dgemma.config import ModelConfig; from pathlib import Path; "
        "from dgemma.errors import HubError\n"
        "try: rm.remove('org/none', cache_dir=Path(sys.argv[1]))\nexcept HubError: pass\n"
        "problems(Path(sys.argv[1]), None); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60).returncode == 0
