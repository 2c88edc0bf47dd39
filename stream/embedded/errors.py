"""What can go wrong with a server that nudge starts itself."""


class ServerError(RuntimeError):
    """A server could not be started; the message says why and what to do."""


class ServerNotReadyError(ServerError):
    """A server was started but ended, or did not answer in time; the message holds the tail of its log."""
