from lmcnb.errors import Paused, UsageError, UserError  # noqa: F401
