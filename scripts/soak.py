"""Kill a LeNet training on the real images again and again; its result must be that of the training left alone."""

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__, epilog="The last line is the tally; exit code 0 if identical.")
command.add_count("--kills", "(100)", default=100)
command.add_argument("--seed", type=int, default=0, help="of the instants (0)")
command.add_overrides("of the configuration, such as model=vgg data.resize=32")


def main(arguments):
    """Train and kill, and print the tally; the exit code is 1 if anything differs."""
    from convnets.benchmark.soak import soak

    tally = soak(arguments.overrides, arguments.kills, arguments.seed)
    print(tally)
    return 1 if "DIFFERENT" in tally else 0


if __name__ == "__main__":
    command.run(main)
