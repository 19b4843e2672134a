"""Less memory than weights, on a CPU: a model whose layers are read from its files, under an enforced limit, beside the same in memory.

    python benchmarks/streaming.py [--shape 1b] [--formats int4,fp8] [--folder DIR] [--steps 6] [--canvas 256]

Writes a random checkpoint of the shape (once, into --folder), puts it into each format with `dgemma quantize`, and runs the same
request in processes of their own: once in memory, twice with `memory=` half of the weights' bytes: with the files in the system's cache,
and with their pages dropped before every step. The limit is the kernel's (RLIMIT_DATA): private writable memory above what
the process had with torch and dgemma imported and one product done may be half of the weights' bytes, or an allocation fails. MmapOffload pages
are read-only and shared with the system's cache: they are not in that number, and RssFile, printed beside it, says how many were
there at the end. Rows go to benchmarks/results/streaming.csv.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "streaming.csv"
DTYPE = "bfloat16"


def status(name: str) -> int:
    """Bytes of a line of this process's status (VmData, RssAnon, RssFile)."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":")
    )
    return int(line.split()[1]) * 1024


def drop(folder: Path) -> None:
    """Ask the system to forget the pages of a folder's files."""
    for path in folder.glob("*.safetensors"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def child(folder: Path, memory: int, steps: int, canvas: int, cold: bool) -> dict[str, object]:
    """One run in this process. memory 0: everything in memory, no limit."""
    import torch

    import dgemma
    from dgemma.config import DenoiseConfig, EngineConfig
    from dgemma.engine.engine import Engine
    from dgemma.engine.requests import Request, StepRecord

    torch.set_num_threads(2)
    torch.ones(256, 256, dtype=torch.bfloat16) @ torch.ones(256, 256, dtype=torch.bfloat16)
    data, anonymous = status("VmData"), status("RssAnon")
    if memory:
        resource.setrlimit(resource.RLIMIT_DATA, (data + memory, data + memory))
    began = time.perf_counter()
    model = dgemma.load(folder, "cpu", DTYPE, memory=memory or None)
    loaded = time.perf_counter() - began
    config = DenoiseConfig(
        max_denoising_steps=steps, eos_token_id=None, confidence_threshold=1e-9, canvas_width=canvas
    )
    prompt = torch.randint(
        0, model.config.vocab_size, (canvas,), generator=torch.Generator().manual_seed(1)
    ).tolist()
    engine = Engine(model.net, EngineConfig(memory=model.engine.scheduler.budget))
    ticket, times, most, tokens = engine.submit(Request(tuple(prompt), canvas, 0, config)), [], 0, []
    while not engine.idle:
        if cold:
            drop(folder)
        began = time.perf_counter()
        engine.advance()
        seconds = time.perf_counter() - began
        most = max(most, status("RssAnon"))
        for record in engine.poll(ticket):
            if isinstance(record, StepRecord):
                times.append(seconds)
            else:
                tokens += record.token_ids
    return {
        "tokens": tokens, "step_ms": 1e3 * sorted(times)[len(times) // 2], "load_s": loaded, "anonymous": most - anonymous,
        "mapped": status("RssFile"), "layers": len(getattr(model.net.layers.offload, "following", ())), "notes": model.notes,
    }  # fmt: skip


def run(folder: Path, memory: int, steps: int, canvas: int, cold: bool = False) -> dict[str, object]:
    """`child` in a process of its own."""
    call = [
        sys.executable,
        __file__,
        "--child",
        str(folder),
        "--memory",
        str(memory),
        "--steps",
        str(steps),
        "--canvas",
        str(canvas),
    ]
    call += ["--cold"] if cold else []
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(call)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def make(folder: Path, shape: str, formats: list[str]) -> None:
    """A random checkpoint in 16 bits, and one in each format."""
    import torch

    from dgemma.bench import shapes
    from dgemma.config import DenoiseConfig
    from dgemma.model.build import build
    from dgemma.weights.names import expected_tensors
    from dgemma.weights.writer import save

    plain = folder / f"{shape}-bf16"
    if not plain.exists():
        config, generator = shapes.shape(shape), torch.Generator().manual_seed(0)
        assert build(config)

        def state():
            for target in expected_tensors(config).values():
                made = torch.ones(target.shape)
                yield (
                    target.model_name,
                    made
                    if made.dim() < 2
                    else made.normal_(0, target.shape[-1] ** -0.5, generator=generator),
                )

        tokenizer = Path(__file__).parents[1] / "src" / "dgemma" / "embedded" / "tokenizer.json"
        save(plain, config, DenoiseConfig(), state(), tokenizer)
    for name in formats:
        if not (folder / f"{shape}-{name}").exists():
            call = [
                sys.executable,
                "-m",
                "dgemma.cli.main",
                "quantize",
                str(plain),
                str(folder / f"{shape}-{name}"),
                "--format",
                name,
            ]
            subprocess.run([*call, "--no-compare"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="1b")
    parser.add_argument("--formats", default="int4,fp8")
    parser.add_argument("--folder", type=Path, default=Path("streaming-models"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--canvas", type=int, default=256, help="tokens of the prompt, and of the canvas")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child, options.memory, options.steps, options.canvas, options.cold)))
        return
    from about import append, commit, machine

    formats = options.formats.split(",")
    make(options.folder, options.shape, formats)
    for name in formats:
        folder = options.folder / f"{options.shape}-{name}"
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        resident = run(folder, 0, options.steps, options.canvas)
        for label in ("in memory", "streams, cached", "streams, cold"):
            found = (
                resident
                if label == "in memory"
                else run(folder, weights // 2, options.steps, options.canvas, "cold" in label)
            )
            row = {
                "date": datetime.date.today().isoformat(), "machine": machine(), "commit": commit(), "shape": options.shape,
                "format": name, "dtype": DTYPE, "canvas": options.canvas, "run": label, "weights_mb": round(weights / 1e6),
                "limit_mb": "" if label == "in memory" else round(weights / 2e6), "anonymous_mb": round(found["anonymous"] / 1e6),
                "mapped_mb": round(found["mapped"] / 1e6), "layers": found["layers"], "load_s": round(found["load_s"], 1),
                "step_ms": round(found["step_ms"], 1), "times": round(found["step_ms"] / resident["step_ms"], 3),
                "same_tokens": found["tokens"] == resident["tokens"],
            }  # fmt: skip
            print(row, *found["notes"], sep="\n  ", flush=True)
            append(RESULTS, [row])


if __name__ == "__main__":
    main()
