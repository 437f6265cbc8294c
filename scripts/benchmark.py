"""Measure how fast this machine trains the book's networks with this project, and with what else one would run."""

import sys
from datetime import datetime
from pathlib import Path

try:
    from convnets.benchmark.suite import CONTENDERS, MODELS, Benchmark
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(
    __doc__,
    epilog=f"Contenders: {', '.join(map(repr, CONTENDERS))}. The report lies in outputs/benchmarks/ as benchmark.md "
    "and benchmark.json. Run nothing else meanwhile. Where torch alone is installed, the bare loops are measured: "
    "PYTHONPATH=src python3 scripts/benchmark.py --data-dir FOLDER",
    needs_environment=False,
)
command.add_argument("--quick", action="store_true", help="the main contenders, once, on few steps: two minutes")
command.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="(all)")
command.add_argument("--contenders", nargs="+", choices=CONTENDERS, metavar="CONTENDER", help="of those below (all)")
command.add_count("--repetitions", "of each measurement (3)", default=3)
command.add_argument(
    "--growth", action="store_true", help="instead: how pace and memory change with batch and image size"
)
command.add_argument("--data-dir", type=Path, metavar="FOLDER", help="that has Fashion-MNIST's four files, raw or .gz")
command.add_argument("--json", action="store_true", help="print all figures as JSON; what else is said goes to stderr")


def main(arguments):
    """Measure, and print the report."""
    folder = Path("outputs/benchmarks") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    output = sys.stderr if arguments.json else sys.stdout
    benchmark = Benchmark(folder, lambda line: print(line, file=output, flush=True), arguments.data_dir)
    repetitions = 1 if arguments.quick else arguments.repetitions
    if arguments.growth:
        benchmark.grow(repetitions)
    else:
        benchmark.compare(arguments.models, arguments.contenders, repetitions, arguments.quick)
    print("", *benchmark.report(), "", f"written to {folder}", sep="\n", file=output)
    if arguments.json:
        print(benchmark.record())


if __name__ == "__main__":
    command.run(main)
