"""Print what each layer of a network gives out and costs: python scripts/summarize.py model=vgg11 data.resize=224."""

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

command = Command(__doc__)
command.add_count("--depth", "2 opens blocks, 3 what is in them (1)", default=1)
command.add_overrides("as for train.py: model=..., data.resize=..., data.batch_size=...")


def main(arguments):
    """Compose the configuration, build the network on no device, and print its layers."""
    from convnets.training.command import compose

    config, _ = compose(arguments.overrides)

    from convnets.training.layer_summary import describe_network  # imports torch

    print(describe_network(config, arguments.depth))


if __name__ == "__main__":
    command.run(main)
