"""The thread that draws pictures beside the training, from arrays that nobody changes."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

log = logging.getLogger(__name__)

_THREAD = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drawing")


class Drawings:
    """One callback's drawings. All callbacks share one thread, which draws in the order of the calls of `add`.

    A drawing that fails is logged and left out: a picture is no reason to end a training.

    Attributes:
        seconds: that the thread has worked.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._waiting: list[Future[None]] = []

    def add(self, draw: Callable[..., None], *arguments: Any) -> None:
        """Have the thread call `draw` with the arguments."""
        self._waiting = [job for job in self._waiting if not job.done()]
        self._waiting.append(_THREAD.submit(self._do, draw, arguments))

    def _do(self, draw: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        started = time.perf_counter()
        try:
            draw(*arguments)
        except Exception as error:
            log.warning("A picture could not be drawn: %r. The training goes on.", error,
                        exc_info=not isinstance(error, OSError))  # fmt: skip
        self.seconds += time.perf_counter() - started

    @property
    def busy(self) -> bool:
        """Whether a drawing is not finished yet."""
        return not all(job.done() for job in self._waiting)

    def wait(self) -> None:
        """Return once all drawings are finished."""
        for job in self._waiting:
            job.result()
        self._waiting.clear()
