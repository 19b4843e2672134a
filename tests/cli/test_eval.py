"""`dgemma eval`: files, or held-out texts of the small world where none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgemma.cli import eval as eval_verb
from dgemma.cli.main import main
from dgemma.train.evaluate import held_out_texts
from dgemma.train.world import World
from tests.helpers import tiny_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("eval") / "model"))


def test_the_held_out_texts_are_of_the_test_side_and_always_the_same() -> None:
    texts = held_out_texts(3)
    assert set(texts) == {"gap", "text_gap"} and texts == held_out_texts(3)
    assert texts["gap"] == held_out_texts(5)["gap"][:3]
    train = World(0)
    assert not {train.example("gap", index).text for index in range(3)} & {*texts["gap"]}


def test_without_files_the_world_is_scored(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eval_verb, "WORLD_TEXTS", 2)
    assert main(["eval", "-m", model, "--samples", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    texts = held_out_texts(2)
    for name, row in found["files"].items():
        assert (
            row["text_bytes"] == row["tokens"] == sum(len(text.encode()) for text in texts[name])
        )  # a token is a byte
    assert found["total"]["text_bytes"] == sum(row["text_bytes"] for row in found["files"].values())
    assert main(["eval", "-m", model, "--samples", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["gap", "text_gap", "all of them"]


def test_a_name_adds_up_its_texts(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path, text in zip(paths, ("one text", "and another"), strict=True):
        path.write_text(text)
    assert main(["eval", *map(str, paths), "-m", model, "--samples", "2", "--json"]) == 0
    apart = json.loads(capsys.readouterr().out)
    assert set(apart["files"]) == {*map(str, paths)}

    import dgemma

    together = dict(eval_verb.scores(dgemma.load(model), {"both": ["one text", "and another"]}, 2, 0))
    assert together["both"].next_token == pytest.approx(apart["total"]["next_token"])
    assert together["both"].bound == pytest.approx(apart["total"]["bound"])  # the noise is the same, too
