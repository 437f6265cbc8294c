"""Let a trained run name what is in pictures: PNG and JPEG files of any size and mode, and folders of them."""

import argparse
import json
import sys
from pathlib import Path

try:
    from convnets.configuration.errors import errors_explained
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", metavar="RUN", help="a run's folder, its name in outputs/, latest, or best:SWEEP")
parser.add_argument("images", metavar="IMAGE", nargs="+", type=_path, help="a file, or a folder of PNG and JPEG files")
parser.add_argument(
    "--background",
    choices=("auto", "black", "white"),
    default="auto",
    help="of the pictures, for Fashion-MNIST (auto: what most of the border is)",
)
parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help="a class outside conf/ to be called")


def main() -> int:
    """Predict, print; the exit code says whether every file was a picture."""
    arguments = parser.parse_args()
    with errors_explained():
        from convnets.results.prediction import Refusal, as_records, as_table, find_pictures, predict
        from convnets.results.trained import load_run

        run = load_run(arguments.run, arguments.trust)
        answers = list(predict(run, find_pictures(arguments.images), arguments.background))
        print(json.dumps(as_records(answers), indent=2) if arguments.json else f"{run}\n{as_table(answers)}".rstrip())
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        for refusal in refusals:
            print(f"skipped {refusal.path}: {refusal.reason}", file=sys.stderr)
    return 1 if refusals else 0


if __name__ == "__main__":
    sys.exit(main())
