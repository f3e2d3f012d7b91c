"""The one exception that stands for a mistake of the user's, as against a defect of the program."""


class UserError(ValueError):
    """An error that the user can mend; the command line prints its sentence without a traceback."""


class UnusableFunctionError(UserError, ImportError, TypeError):
    """A function that a config names, and that cannot be imported or called."""
