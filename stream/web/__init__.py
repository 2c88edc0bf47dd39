"""What the worker serves over HTTP: `/metrics`, `/health`, and the live page with its stream of views.

`server` builds the aiohttp application and runs it, `live` feeds the page, `live.html` is the page: one file that
needs nothing from elsewhere.
"""
