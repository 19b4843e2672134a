"""Layers that stream through buffers, or are views of files: every pass equals that of the model in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dgemma.config.formats import Format
from dgemma.kernels.ops import matmul
from dgemma.kernels.ops.matmul import should_pack
from dgemma.kernels.quant.formats import QuantTensor
from dgemma.memory.placement import BUFFERS, spread
from dgemma.model.build import pack, quantise
from dgemma.model.dgemma import DiffusionGemma
from dgemma.model.streaming import HostOffload, MmapOffload, matrices
from tests.helpers import lively_model, tiny_config

CPU = torch.device("cpu")


class Late:
    """A lane whose copies happen at the last moment: when somebody waits for them."""

    def __init__(self) -> None:
        self.waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.copies = 0

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: object) -> int:
        self.waiting.append((target, source))
        self.copies += 1
        return len(self.waiting)

    def mark(self) -> None:
        return None

    def wait(self, event: int) -> None:
        """A stream works in order: everything up to the event."""
        for target, source in self.waiting[:event]:
            target.copy_(source)
        self.waiting[:event] = [(torch.empty(0), torch.empty(0))] * event


class Early(Late):
    """A lane whose copies happen at once."""

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: object) -> int:
        target.copy_(source)
        return super().copy(target, source, after)


def model(few: bool) -> DiffusionGemma:
    config = tiny_config(
        "SSFSSF",
        hidden_size=64,
        moe_intermediate_size=32,
        intermediate_size=64,
        head_dim=16,
        global_head_dim=32,
    )
    made = lively_model(config, dtype="float64")
    formats = {"experts": Format("int4", 32), "attention": Format("fp8")} if few else {}
    return quantise(made, formats)


def two_passes(made: DiffusionGemma) -> list[torch.Tensor]:
    found = []
    for start in (3, 9):
        cache = made.new_cache()
        found.append(made.encode(torch.arange(start, start + 7)[None], [cache]))
        found.append(made.denoise(torch.arange(20, 26)[None], [cache]))
    return found


def same(got: list[torch.Tensor], want: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.parametrize("stream", [Early, Late])
@pytest.mark.parametrize("streamed", [2, 4, 6])
@pytest.mark.parametrize("few", [False, True], ids=["plain", "few bits"])
def test_carried_layers_are_the_resident_ones(few: bool, streamed: int, stream: type[Late]) -> None:
    want, made, used = two_passes(model(few)), model(few), stream()
    made.layers.offload = HostOffload(made.layers, spread(6, streamed), CPU, used)
    assert same(two_passes(made), want)
    assert used.copies == 4 * streamed + 1  # one per layer and pass, and the one that is on its way


def test_only_the_buffers_are_on_the_device() -> None:
    made = model(True)
    whole = sum(part.nbytes for part in _parts(made.layers))
    carried = HostOffload(made.layers, spread(6, 6), CPU, Late())
    homes = {part.untyped_storage().data_ptr() for part in _parts(made.layers)}
    assert (
        homes == {buffer.untyped_storage().data_ptr() for buffer in carried.buffers} and len(homes) == BUFFERS
    )
    assert whole <= sum(map(len, carried.host)) <= whole + 256 * len(list(_parts(made.layers)))


def test_a_pass_that_broke_off_leaves_no_wrong_layer_behind() -> None:
    want, made = two_passes(model(True)), model(True)
    made.layers.offload = HostOffload(made.layers, spread(6, 4), CPU, Late())
    for broken in range(6):
        hook = made.layers[broken].register_forward_pre_hook(_fail)
        with pytest.raises(KeyError):
            two_passes(made)
        hook.remove()
        assert same(two_passes(made), want)


def test_a_layer_that_did_not_arrive_is_noticed() -> None:
    """The twin that must fail: without its copies the model is another one."""
    want, made = two_passes(model(True)), model(True)
    stream = Late()
    made.layers.offload = HostOffload(made.layers, spread(6, 4), CPU, stream)
    stream.wait = lambda event: None
    assert not same(two_passes(made), want)


def test_streamed_layers_are_evenly_apart() -> None:
    assert spread(30, 30) == tuple(range(30)) and spread(6, 2) == (1, 4) and spread(30, 10)[:3] == (1, 4, 7)
    assert all(len(set(spread(30, count))) == count for count in range(1, 31))


def test_an_odd_number_of_layers_cannot_take_turns() -> None:
    with pytest.raises(ValueError, match="3 layers"):
        made = model(False)
        HostOffload(made.layers, [0, 1, 2], CPU, Late())


@pytest.mark.parametrize("few", [False, True], ids=["plain", "few bits"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_mapped_layers_are_the_packed_ones(dtype: str, few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "lacks_avx512", lambda: False)  # whether it pays is not asked here
    if not should_pack(getattr(torch, dtype)):
        pytest.skip("this processor has no packed products in this dtype")
    want = two_passes(pack(model(few).to(getattr(torch, dtype))))
    made, told = model(few).to(getattr(torch, dtype)), []
    plain = {id(getattr(module, name)) for layer in made.layers for module, name in matrices(layer)}
    table, made.packed = made.embed.weight, None
    made.layers.offload = MmapOffload(made.layers, [0, 1, 3, 4], made.dtype, told.append)
    for number in (2, 5):  # what is resident is packed
        for module in made.layers[number].modules():
            if hasattr(module, "pack") and should_pack(made.dtype):
                module.pack()
    assert same(two_passes(made), want)
    assert told == [1, 3, 4, 0] * 4
    made.layers.offload.load_layer(2)  # nothing of the others is held any more
    kept = {id(getattr(module, name)) for n in (0, 1, 3, 4) for module, name in matrices(made.layers[n])}
    assert kept <= plain and made.embed.weight is table


def _parts(layers: nn.ModuleList) -> list[torch.Tensor]:
    found = []
    for layer in layers:
        for module, name in matrices(layer):
            weight = getattr(module, name)
            found += weight.parts.values() if isinstance(weight, QuantTensor) else [weight]
    return found


def _fail(*_: object) -> None:
    raise KeyError("broken")
