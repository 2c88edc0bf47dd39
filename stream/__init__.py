"""The running system: Faust app, sources, agents, state in Redis, metrics, web and command line."""
