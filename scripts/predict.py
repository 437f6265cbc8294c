"""Let a trained run name what is in pictures of any size and mode (JPEG, PNG, WebP, BMP, TIFF, GIF, PPM)."""

import argparse
import json
import sys
from pathlib import Path

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return Path(text)


command = Command(__doc__)
command.add_run()
command.add_argument("images", metavar="IMAGE", nargs="+", type=_path, help="a file, or a folder of such")
command.add_argument(
    "--background",
    choices=("auto", "black", "white"),
    default="auto",
    help="of the pictures, for Fashion-MNIST (auto: what most of the border is)",
)
command.add_argument("--json", action="store_true", help="print JSON instead of a table")
command.add_trust()


def main(arguments):
    """Predict, and print the predictions; the exit code is 1 if a file is no picture."""
    from convnets.results.prediction import Refusal, as_records, as_table, find_pictures, predict
    from convnets.results.trained_run import load_run

    run = load_run(arguments.run, arguments.trust)
    pictures = find_pictures(arguments.images)
    answers = predict(run.classifier, run.build_datamodule(), pictures, arguments.background)
    print(json.dumps(as_records(answers), indent=2) if arguments.json else f"{run}\n{as_table(answers)}".rstrip())
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    for refusal in refusals:
        print(f"skipped {refusal.path}: {refusal.reason}", file=sys.stderr)
    return 1 if refusals else 0


if __name__ == "__main__":
    command.run(main)
