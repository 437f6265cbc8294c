"""Go on with an unfinished run from its folder alone: python scripts/resume.py RUN."""

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_run()
command.add_argument(
    "changes",
    nargs="*",
    default=[],
    metavar="KEY=VALUE",
    help="trainer.max_epochs=20 adds epochs to a run (a finished one needs the checkpoint.keep=true it was trained "
    "with); checkpoint.every_seconds=5 and the like change what decides no result",
)
command.add_trust()


def main(arguments):
    """Load the folder's configuration, and train on."""
    from convnets.runs.finding import find_run
    from convnets.runs.run import Run
    from convnets.training.extend import extend
    from convnets.training.train import train

    run = Run(find_run(arguments.run), arguments.trust)
    train(extend(run, arguments.changes), run.path)


if __name__ == "__main__":
    command.run(main)
