"""Gaps filled by a model in this process: loaded while the editor goes on, then asked through the service's
worker.

The worker's thread owns the model; a gap's own thread only waits for it, so that one that is cancelled frees
its slots before the next pass. Trap: torch comes with the model, on its thread; an editor that waits for
`initialize` must not wait for torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from ...errors import Cancelled, ResourceError, is_out_of_memory

if TYPE_CHECKING:
    from ...api import Model
    from ..engine_proxy import EngineProxy
    from ..worker import Worker


class Loaded:
    """A Filler. load: called once, on a thread. longest: most tokens of a gap, and never more than half a
    canvas of them.
    """

    def __init__(self, load: Callable[[], Model], longest: int | None = None, seed: int = 0, **sampler: Any):
        self._load = load
        self.longest = longest
        self.settings = {"seed": seed, **sampler}
        self.ready: Future[tuple[Model, Worker]] = Future()
        threading.Thread(target=self._begin, daemon=True).start()

    def __call__(self, prefix: str, suffix: str) -> LoadedGap:
        return LoadedGap(self, prefix, suffix)

    def close(self) -> None:
        """End the worker, if there is one by now."""
        if self.ready.done() and self.ready.exception() is None:
            self.ready.result()[1].stop()

    def _begin(self) -> None:
        from ..worker import Worker

        try:
            model = self._load()
            worker = Worker(model.engine)
            worker.start()
            self.ready.set_result((model, worker))
        except BaseException as error:  # the edge of a thread
            if is_out_of_memory(error):
                error = ResourceError("out of memory; `dgemma doctor` says what fits where")
            self.ready.set_exception(error)


class LoadedGap:
    """A Gap."""

    def __init__(self, filler: Loaded, prefix: str, suffix: str):
        self._filler = filler
        self._texts = (prefix, suffix)
        self._proxy: EngineProxy | None = None
        self._closed = False

    def texts(self) -> list[str]:
        model, worker = self._filler.ready.result()
        from ...tasks.infill import default_widths
        from ..engine_proxy import EngineProxy

        self._proxy = EngineProxy(worker, watched=False)
        if self._closed:
            raise Cancelled
        served = model.run_by(self._proxy)
        settings = self._filler.settings
        longest = self._filler.longest
        canvas = settings.get("canvas_width") or model.config.canvas_length
        most = None
        if longest is not None:
            most = min(longest, max(1, canvas // 2))
        filling = served.fill(*self._texts, widths=default_widths(canvas, most), **settings)
        return [filling.text, *filling.candidates]

    def cancel(self) -> None:
        self._closed = True
        if self._proxy is not None:
            self._proxy.close()
