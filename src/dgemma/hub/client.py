"""The hub client's behaviour in our terms: its exceptions as one-line errors with a fix, its bars and
warnings off.

Knows the client's classes and nothing of files. Trap: the client's transport library was renamed between
versions and it does not wrap those errors, so they are known by the package they come from, not by their
class.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..config.sizes import disk_size
from ..errors import HubError, ResourceError, UsageError
from ..weights.disk import FULL, UNWRITABLE, free_bytes

_TRANSPORT = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")


@contextmanager
def hub_errors(
    name: str, revision: str | None, again: str = "pull again to go on", place: Path | None = None
) -> Iterator[None]:
    """The client's exceptions as HubError or ResourceError, each with what to do about it; again: where that
    is one more try.

    place: the folder that is written to, for what a full disk or a read-only one says.
    """
    from huggingface_hub import errors

    login = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError:
        raise HubError(f"'{name}' is gated: accept its licence on its hub page, then {login}") from None
    except errors.RevisionNotFoundError:
        raise HubError(
            f"'{name}' has no revision '{revision}'; its hub page lists branches and tags"
        ) from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"no model '{name}' on the hub, or no access: check its name; if private, {login}"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise HubError(f"'{name}' cannot be fetched: HF_HUB_OFFLINE is set; unset it and try again") from None
    except errors.LocalTokenNotFoundError:
        raise HubError(f"'{name}' needs a token and none was found: {login}") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            raise HubError(f"'{name}': the hub refused access ({status}): {login}") from None
        raise HubError(f"'{name}': the hub answered {status or 'with an error'}; try again later") from None
    except OSError as error:
        if place is not None and error.errno in FULL:
            free = disk_size(free_bytes(place))
            raise ResourceError(
                f"{place}: the disk filled up while fetching '{name}', {free} are free; "
                "make room, then pull again"
            ) from None
        if place is not None and error.errno in UNWRITABLE:
            why = os.strerror(error.errno)
            raise UsageError(
                f"{place}: cannot be written ({why}); set HF_HOME to a folder where there may be files"
            ) from None
        raise HubError(f"'{name}' could not be fetched ({_first_line(error)}); {again}") from None
    except ValueError as error:  # no JSON in the answer, a port, a proxy or a token that cannot be
        hint = "are HF_ENDPOINT, HF_TOKEN and the proxy settings right?"
        raise HubError(f"'{name}' could not be fetched ({_first_line(error)}); {hint}") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in _TRANSPORT:
            raise
        raise HubError(f"'{name}': no connection to the hub ({_first_line(error)}); {again}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """The client's bars and retry warnings off: progress is the caller's, and errors are one line."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    level = logging.get_verbosity()
    bars = not are_progress_bars_disabled()
    logging.set_verbosity(50)
    if bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            enable_progress_bars()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
