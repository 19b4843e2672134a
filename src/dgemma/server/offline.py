"""A request of OpenAI's dialect answered without a socket: the same reading, job and answer as behind a
route.

`dgemma batch` opens many and pulls on each in turn, so that they share passes. Knows no web framework:
batches run where the packages of the service are not installed. Trap: nothing here limits how long a body
may be; it comes from the user's own file.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any

import msgspec

from ..config.neutral import effective
from ..errors import DgemmaError
from .fields import decode
from .jobs import RequestError, as_request_error, events_of
from .routes import ServedModel, Task
from .schema import openai
from .schema.openai_answers import shape
from .schema.sampling import FORMS

TASKS = {route.path: route for route in openai.ROUTES}


class OfflineRequest:
    """One request at work.

    `step` it until it is `done`; then it has a `status` and a `body`, as the route would have answered.

    defaults: settings that hold where the fields do not ask for something else.
    """

    def __init__(
        self, served: ServedModel, path: str, fields: Mapping[str, Any], defaults: Mapping[str, Any] = {}
    ):
        self.status = 200
        self.body: dict[str, Any] | None = None
        self._streams: dict[int, Generator[Any, None, None]] = {}  # by call
        try:
            self._begin(served, TASKS[path], _with_defaults(fields, defaults, TASKS[path]))
        except RequestError as error:
            self._refuse(error)
        except DgemmaError as error:
            self._refuse(as_request_error(error))

    @property
    def done(self) -> bool:
        return self.body is not None

    def step(self) -> None:
        """One more event of each of the request's answers."""
        try:
            for index in [*self._streams]:
                self._advance(index)
        except DgemmaError as error:
            self._refuse(as_request_error(error))
            return
        if not self._streams:
            self.body = msgspec.to_builtins(self._job.answer.whole())

    def _begin(self, served: ServedModel, task: Task, fields: dict[str, Any]) -> None:
        most = served.config.max_depth
        try:
            data = json.dumps(fields).encode()
        except RecursionError:
            raise RequestError(400, f"the body is nested more than {most} deep") from None
        body = decode(data, task.body, most)
        if body.stream:
            raise RequestError(
                400, "a batch answers each request whole; leave stream out", parameter="stream"
            )
        self._job = task.begin(served, body)
        self._streams = {index: events_of(served.model, call) for index, call in enumerate(self._job.calls)}

    def _advance(self, index: int) -> None:
        event = next(self._streams[index], None)
        if event is None:
            del self._streams[index]
            return
        for _ in self._job.answer.take(index, event):
            pass

    def _refuse(self, error: RequestError) -> None:
        """End with an error; what still runs for the others of its answers ends with it."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        self.status = error.status
        self.body = shape(error)


def _with_defaults(fields: Mapping[str, Any], defaults: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """A request's fields, and the settings that it does not name.

    One that asks for a form of its own takes none from them.
    """
    given = effective(fields, task.body.__struct_fields__)
    has_form = any(name in given for name in FORMS)
    rest = {name: value for name, value in defaults.items() if not (has_form and name in FORMS)}
    return rest | given
