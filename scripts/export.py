"""Export a trained run as a program that takes batches of images as bytes, its preprocessing included."""

import argparse

try:
    from convnets.configuration.errors import errors_explained
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", metavar="RUN", help="a run's folder, its name in outputs/, latest, or best:SWEEP")
parser.add_argument("--to", choices=("onnx", "torch"), required=True, help="model.onnx, or model.pt2 of torch.export")
parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help="a class outside conf/ to be called")


def main() -> None:
    """Export, check, say where it is."""
    arguments = parser.parse_args()
    with errors_explained():
        from convnets.results.export import export
        from convnets.results.trained import load_run

        print(export(load_run(arguments.run, arguments.trust), arguments.to))


if __name__ == "__main__":
    main()
