"""The process of one task: python -P child.py TASK STARTED RESULT_PATH."""

import json
import sys
from pathlib import Path

from convnets.benchmark.contenders import run
from convnets.benchmark.marks import Task

if __name__ == "__main__":
    text, started, result_path = sys.argv[1:]
    figures = run(Task(**json.loads(text)), float(started))
    Path(result_path).write_text(json.dumps(figures))
