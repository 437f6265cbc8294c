"""Audit the labels of a data set by the runs of a cross-validation: likely wrong ones, and images that are there twice.

For Fashion-MNIST: scripts/train.py -m experiment=speedrun/94 data.folds=5 data.fold=0,1,2,3,4 sweep_name=folds
"""

from pathlib import Path

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_argument("folders", nargs="+", metavar="FOLDER", help="the sweep, or its runs")
command.add_argument("--to", type=Path, default=Path("outputs/audit"), metavar="FOLDER", help="(outputs/audit)")


def main(arguments):
    """Judge the labels, and say how many look wrong."""
    from convnets.files import shown
    from convnets.results.audit import FILES, audit, in_words
    from convnets.results.trained_run import TrainedRun
    from convnets.runs.finding import find_folders, find_runs

    runs = [run for run in map(TrainedRun, find_runs(find_folders(arguments.folders))) if run.result]
    print(in_words(audit(runs, arguments.to)))
    print(f"\nin {shown(arguments.to)}: {', '.join(FILES)}")


if __name__ == "__main__":
    command.run(main)
