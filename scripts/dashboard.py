"""Open TensorBoard on runs and sweeps: python scripts/dashboard.py [RUN|SWEEP...]; by default on all of outputs/."""

from pathlib import Path

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_argument("folders", nargs="*", metavar="RUN|SWEEP", help="folders, their names in outputs/, or latest")
command.add_argument("--port", type=int, help="(the first that is free from 6006 on)")
command.add_argument("--open", action="store_true", help="show it in the browser")


def main(arguments):
    """Find the folders, and serve them until TensorBoard ends, whose exit code is returned."""
    from convnets.configuration.shell import script
    from convnets.files import RunFolderError
    from convnets.results.tensorboard_server import serve
    from convnets.runs.finding import find_folders, find_runs

    folders = find_folders(arguments.folders) if arguments.folders else [Path("outputs")]
    num_runs = len(find_runs(folders))
    if not num_runs:
        raise RunFolderError(f"There is no run in {folders[0]} yet: {script('train')} makes one.")
    return serve(folders, num_runs, arguments.port, arguments.open)


if __name__ == "__main__":
    command.run(main)
