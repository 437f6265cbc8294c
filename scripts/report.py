"""Rank runs: mean, spread and cost of each recipe over its seeds, and which differences are beyond the spread."""

import signal
from pathlib import Path

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

MOST_ROWS = 30  # of a table in the terminal

command = Command(__doc__)
command.add_argument(
    "folders",
    nargs="*",
    metavar="FOLDER",
    help="runs, sweeps or folders above, or their names in outputs/ (outputs/sweeps and outputs/runs)",
)
command.add_argument("--metric", default="val/accuracy", help="what to rank by, such as test/accuracy or val/loss")
command.add_argument("--by", default="", metavar="KEY[,KEY]", help="group by these only, such as model,init,model.lr")
command.add_argument(
    "--to", type=Path, metavar="FOLDER", help="where to write (the one sweep given, or outputs/report)"
)
command.add_argument(
    "--html", action="store_true", help="write report.html too: one page, with confusion matrices and mistakes"
)
command.add_argument(
    "--picture", action="store_true", help="write picture.png too: the best curves, and what the best network sees"
)
command.add_argument(
    "--tensorboard",
    action="store_true",
    help="write the mean over the seeds and its band for TensorBoard too, as a run for each group",
)
command.add_argument(
    "--records", action="store_true", help="show what the recipes of experiment=modern/... and speedrun/... reached"
)
command.add_argument("--disk", action="store_true", help="show what the folders weigh instead")
command.add_argument(
    "--prune", action="store_true", help="remove the checkpoints of finished runs, after asking, instead"
)
command.add_argument("--yes", action="store_true", help="with --prune: do not ask")


def main(arguments):
    """Find the runs; rank, weigh or prune them."""
    from convnets.configuration.shell import script
    from convnets.files import RunFolderError, shown
    from convnets.runs.finding import find_folders, find_runs
    from convnets.runs.run import read_run

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly, its files written
    folders = find_folders(arguments.folders)
    paths = find_runs(folders)
    if not paths:
        where = ", ".join(map(shown, folders)) or "outputs/"
        raise RunFolderError(f"There is no run in {where} yet: {script('train')} makes one.")
    if arguments.prune:
        from convnets.runs.disk import prune_after_asking

        return prune_after_asking(paths, arguments.yes)
    if arguments.disk:
        from convnets.runs.disk import as_table, weigh

        print(as_table([weigh(path) for path in paths]))
        return 0
    if arguments.records:
        from convnets.results.records import write_records

        return print(write_records([read_run(path) for path in paths], arguments.to or Path("outputs/report")))
    from convnets.results.leaderboard import build_leaderboard
    from convnets.results.report import FILES, as_markdown, write_report

    by = [key.strip() for key in arguments.by.split(",") if key.strip()]
    leaderboard = build_leaderboard([read_run(path) for path in paths], arguments.metric, by)
    title = f"Leaderboard of {', '.join(map(shown, folders))}"
    one_sweep = len(arguments.folders) == 1 and paths != folders
    to = arguments.to or (folders[0] if one_sweep else Path("outputs/report"))
    write_report(leaderboard, title, to)
    print(as_markdown(leaderboard, title, MOST_ROWS))
    print(f"\nin {shown(to)}: {', '.join(FILES)}")
    if arguments.html:
        from convnets.results.page import write_page

        print(f"page: {shown(write_page(leaderboard, title, to))}")
    if arguments.picture:
        from convnets.results.picture import write_picture

        print(f"picture: {shown(write_picture(leaderboard, to))}")
    if arguments.tensorboard:
        from convnets.results.seed_means import in_words, write_seed_means

        beside = [] if not arguments.folders and to.is_relative_to("outputs") else [*folders, to]
        print(in_words(write_seed_means(leaderboard, to), beside))
    return 0


if __name__ == "__main__":
    command.run(main)
