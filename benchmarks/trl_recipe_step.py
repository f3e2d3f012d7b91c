"""A process of the benchmarks: TRL's GRPOTrainer on the recipe, one step whenever the parent says so."""

from recipe_case import recipe_of_child
from trl_step import train

if __name__ == "__main__":
    train(*recipe_of_child())
