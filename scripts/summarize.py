"""Print what each layer of a network gives out and costs: python scripts/summarize.py model=vgg11 data.resize=224."""

import argparse

try:
    from convnets.configuration.composition import add_config_dir
    from convnets.configuration.errors import errors_explained
    from convnets.training.command import compose
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("overrides", nargs="*", help="as for train.py: model=..., data.resize=..., data.batch_size=...")
parser.add_argument("--depth", type=int, default=1, help="2 opens blocks, 3 what is in them (1)")
add_config_dir(parser)


def main() -> None:
    """Compose, build on no device, print."""
    arguments = parser.parse_intermixed_args()
    if arguments.depth < 1:
        parser.error(f"--depth must be at least 1, got {arguments.depth}")
    overrides = [*arguments.config_dir, *arguments.overrides]
    with errors_explained(overrides):
        config, _ = compose(overrides)

        from convnets.training.layer_summary import describe_network

        print(describe_network(config, arguments.depth))


if __name__ == "__main__":
    main()
