"""Reproduce the book: its printed values, its training results, its pictures."""

from pathlib import Path

try:
    from convnets.configuration.command_line import Command
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}: make the environment with `make env`, enter it with `. .venv/bin/activate`.") from None

RUNS_DIR, FIGURES_DIR = Path("outputs/runs"), Path("outputs/figures")
RECIPES = (  # of conf/experiment/book
    *("lenet", "alexnet", "vgg", "nin", "googlenet", "bn_lenet", "resnet18", "densenet", "regnet"),
)

command = Command(
    __doc__, epilog="Exit code 0 only when every value is the book's and no recipe is below the book's range."
)
command.add_count("--seeds", "seeds to train each recipe with (5)")
command.add_argument("--figures", action="store_true", help="draw the pictures into outputs/figures")
command.add_overrides(
    "sections (7.5), recipes (lenet, alexnet, ..., all), changes to the recipes (trainer.precision=bf16-mixed); "
    "by default every section's values",
    metavar="what",
)


def main(arguments):
    """Tell the parts of the command line apart, and do each."""
    overrides = [word for word in arguments.overrides if "=" in word]
    words = [word for word in arguments.overrides if "=" not in word]
    recipes = [recipe for recipe in RECIPES if recipe in words or "all" in words]
    sections = [word for word in words if word not in (*RECIPES, "all")]
    if not recipes and (overrides or arguments.seeds):
        word = overrides[0] if overrides else "--seeds"
        command.error(f"{word} changes a recipe, and none is named: {', '.join(RECIPES)} or all")

    from convnets.text import folded, terminal_width

    all_good, width = True, terminal_width()
    if sections or not (recipes or arguments.figures):
        from convnets.book.listings import LISTINGS, as_table

        known = sorted({listing.section for listing in LISTINGS})
        if unknown := [section for section in sections if section not in known]:
            command.error(f"{unknown[0]} is no section or recipe: {', '.join([*known, *RECIPES, 'all'])}")
        listings = [listing for listing in LISTINGS if not sections or listing.section in sections]
        table, all_good = as_table(listings, width)
        print(table)
    if recipes:
        from convnets.book.recipes import Plan

        plans = [Plan(recipe, arguments.seeds or 5, overrides, RUNS_DIR) for recipe in recipes]
        for plan in plans:
            print(folded(plan.cost(), width), flush=True)
        reproductions = [plan.carry_out() for plan in plans]
        print(*(folded(str(reproduction), width) for reproduction in reproductions), sep="\n")
        all_good = all_good and all(reproduction.verdict != "below" for reproduction in reproductions)
    if arguments.figures:
        from convnets.book.figures import draw_all

        for line in draw_all(RECIPES, RUNS_DIR, FIGURES_DIR):
            print(folded(line, width))
    return 0 if all_good else 1


if __name__ == "__main__":
    command.run(main)
