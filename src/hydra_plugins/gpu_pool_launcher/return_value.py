"""Carries what a job's function returns to the process that started the job."""

import json
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback


class WriteReturnValue(Callback):
    """A Hydra callback that writes the return value as JSON; one that JSON does not know becomes null."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_job_end(self, config: Any, job_return: JobReturn, **_: Any) -> None:
        """Write it, whole or not at all."""
        if job_return.status != JobStatus.COMPLETED:
            return
        try:
            text = json.dumps(job_return.return_value)
        except (TypeError, ValueError):
            text = "null"
        incoming = self.path.with_suffix(".incoming")
        incoming.write_text(text)
        incoming.replace(self.path)
